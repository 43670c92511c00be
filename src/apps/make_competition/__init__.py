"""A corpus of speaker folders as a closed competition."""
