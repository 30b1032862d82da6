"""Text to speech: features, teacher forcing, vocoders."""
