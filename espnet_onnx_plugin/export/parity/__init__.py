"""Measured equality of graphs and ESPnet's own modules."""
