"""Whether the test part was recorded as the training part was, which validation to believe then, and what to expect."""
