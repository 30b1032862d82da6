"""HiFi-GAN by ESPnet's own generator, which has the names of parallel_wavegan's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.gan_tts.hifigan import HiFiGANGenerator as ESPnetGenerator


class HiFiGANGenerator(ESPnetGenerator):
    """With the arguments that ESPnet gives to parallel_wavegan's."""

    def inference(self, c: torch.Tensor, normalize_before: bool) -> torch.Tensor:
        """(frames, dim) -> (samples, 1)."""
        return super().inference(c)


def load_model(checkpoint: Path, config: Mapping[str, Any]) -> HiFiGANGenerator:
    """Load a checkpoint of parallel_wavegan."""
    generator = HiFiGANGenerator(**config["generator_params"])
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    generator.load_state_dict(content["model"]["generator"])
    return generator
