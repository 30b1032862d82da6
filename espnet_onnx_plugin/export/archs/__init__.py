"""One file for each architecture that ESPnet names; see ``export/registry.py``."""
