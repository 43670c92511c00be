"""Features on disk: decoded, written, read, cropped, batched and split into folds."""
