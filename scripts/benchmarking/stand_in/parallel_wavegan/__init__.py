"""Of parallel_wavegan what ESPnet loads a vocoder by, where that is not installed."""
