"""Graphs and where they run: devices, sessions, the encoder, opening a bundle."""
