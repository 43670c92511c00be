"""A speaker model: front end, encoder, pooling, embedding and head."""
