"""HiFi-GAN's generator."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.conditions import with_time
from espnet_onnx_plugin.export.layers.vocoder import Vocoder
from espnet_onnx_plugin.export.registry import Arch, register


class HiFiGAN(Vocoder):
    """``espnet2.gan_tts.hifigan.HiFiGANGenerator``, and parallel_wavegan's."""

    def generate(self, c: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        if not condition:
            return self.generator(c)
        return self.generator(c, g=with_time(condition))


register(
    Arch(
        role="vocoder",
        name="hifigan_generator",
        wrap=HiFiGAN,
        tiny={
            "upsampling_8": dict(
                channels=8,
                upsample_scales=[4, 2],
                upsample_kernel_sizes=[8, 4],
                resblock_kernel_sizes=[3, 5],
                resblock_dilations=[[1, 3], [1, 2]],
            ),
            "odd_scale": dict(
                channels=8,
                upsample_scales=[3, 2],
                upsample_kernel_sizes=[6, 4],
                resblock_kernel_sizes=[3],
                resblock_dilations=[[1]],
                use_additional_convs=False,
            ),
        },
    )
)
