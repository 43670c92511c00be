"""Speech to characters by CTC."""
