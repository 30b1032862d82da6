"""Diarization, who speaks when, with the graphs of a bundle."""
