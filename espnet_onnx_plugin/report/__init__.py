"""Tables over decode directories: error rates, agreement with PyTorch, speed, size."""
