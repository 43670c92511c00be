"""Who speaks in new recordings."""
