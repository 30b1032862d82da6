"""Token ids to text and back: tokenizers, cleaners, g2p."""
