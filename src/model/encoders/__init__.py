"""Encoders: frames or waveforms in, frames out."""
