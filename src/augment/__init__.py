"""Augmentations of log-mels and waveforms, one file per effect."""
