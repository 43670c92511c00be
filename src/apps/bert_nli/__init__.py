"""BERT on sentence pairs under the five fine-tuning regimes."""
