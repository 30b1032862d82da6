"""Enhancement, separation and extraction of speech with the graphs of a bundle."""
