"""Rules that make graphs faster; onnxruntime's own optimizer comes after them."""
