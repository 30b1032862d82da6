"""From ESPnet checkpoints to bundles. No other package imports torch and ESPnet."""
