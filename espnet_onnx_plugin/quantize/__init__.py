"""Graphs in lower precision: bundle to bundle."""
