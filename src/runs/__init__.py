"""A run on disk, from its plan to its logits; nothing here imports torch."""
