"""Whether the test part is another session, which validation to believe, and the score to expect."""
