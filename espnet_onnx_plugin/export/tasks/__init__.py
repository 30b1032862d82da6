"""The models of ESPnet's tasks, and what of them becomes graphs."""
