"""Parallel WaveGAN's generator."""

from __future__ import annotations

import math

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.vocoder import Vocoder
from espnet_onnx_plugin.export.registry import Arch, register


class ParallelWaveGAN(Vocoder):
    """``espnet2.gan_tts.parallel_wavegan.ParallelWaveGANGenerator``, and
    parallel_wavegan's, which pads its features outside of the network.
    """

    def source(self) -> dict[str, Tensor]:
        return {"noise": Tensor("float32", ("frames", self.factor))}

    def generate(self, c: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        generator = self.generator
        upsample = generator.upsample_net
        if upsample is not None:
            if not hasattr(upsample, "pad"):
                window = getattr(generator, "aux_context_window", 0)
                c = torch.nn.functional.pad(c, (window, window), mode="replicate")
            c = upsample(c)
        x = generator.first_conv(noise.reshape(1, 1, -1))
        skips = 0.0
        for layer in generator.conv_layers:
            x, skip = layer(x=x, c=c)
            skips = skips + skip
        x = skips * math.sqrt(1.0 / len(generator.conv_layers))
        for layer in generator.last_conv_layers:
            x = layer(x)
        return x


SMALL = dict(
    layers=4,
    stacks=2,
    residual_channels=4,
    gate_channels=8,
    skip_channels=4,
    aux_context_window=1,
    upsample_params={"upsample_scales": [4, 2]},
)

register(
    Arch(
        role="vocoder",
        name="parallel_wavegan_generator",
        wrap=ParallelWaveGAN,
        tiny={"layers_4": SMALL},
    )
)
