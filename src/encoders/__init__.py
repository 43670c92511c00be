"""Encoders: frames (B, T, F) in, frames (B, T', C) out; one family a file, shared building blocks in layers.py."""
