"""Speaker classifiers without a neural network: statistics of an utterance's frames and a linear classifier of them."""
