"""Whether the test part is another session, and what a run scores on degraded copies."""
