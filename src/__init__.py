"""speaker-id: who of a closed set of speakers says this utterance, from a folder of speech to submission.csv."""
