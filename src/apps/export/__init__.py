"""A run as one ONNX file."""
