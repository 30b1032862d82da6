"""Fused graphs: bundle to bundle."""
