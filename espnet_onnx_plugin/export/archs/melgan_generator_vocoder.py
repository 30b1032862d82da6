"""MelGAN's generator, of one band and of several."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.vocoder import Vocoder
from espnet_onnx_plugin.export.registry import Arch, register


class MelGAN(Vocoder):
    """``espnet2.gan_tts.melgan.MelGANGenerator``, and parallel_wavegan's."""

    def generate(self, c: torch.Tensor) -> torch.Tensor:
        return self.generator.melgan(c)


SMALL = dict(kernel_size=3, channels=16, stacks=2)

register(
    Arch(
        role="vocoder",
        name="melgan_generator",
        wrap=MelGAN,
        tiny={
            "one_band": dict(SMALL, upsample_scales=[4, 2]),
            "four_bands": dict(SMALL, upsample_scales=[2, 2], out_channels=4),
        },
    )
)
