"""wav2vec 2.0 pretraining without labels."""
