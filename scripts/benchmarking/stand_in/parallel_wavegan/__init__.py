"""Parts of parallel_wavegan by which ESPnet loads a vocoder, where it is missing."""
