"""What the training stage is made of."""
