"""From ESPnet checkpoints to bundles; the only package that imports torch and ESPnet."""
