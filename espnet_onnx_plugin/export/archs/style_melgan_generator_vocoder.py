"""StyleMelGAN's generator."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.vocoder import Vocoder
from espnet_onnx_plugin.export.registry import Arch, register


class StyleMelGAN(Vocoder):
    """``espnet2.gan_tts.style_melgan.StyleMelGANGenerator``, and parallel_wavegan's.

    A block of noise becomes ``noise_upsample_factor`` frames; what the last block has
    beyond the features is generated with the last frame and cut off.
    """

    @property
    def block(self) -> int:
        """Frames of a block of noise."""
        return int(self.generator.noise_upsample_factor)

    @property
    def sizes(self) -> dict[str, int]:
        """Two blocks, of which the second is not full."""
        return {"blocks": 2, "frames": 2 * self.block - 1}

    def source(self) -> dict[str, Tensor]:
        return {"noise": Tensor("float32", (self.generator.in_channels, "blocks"))}

    def generate(self, c: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = self.generator.noise_upsample(noise[None])
        samples = c.size(2) * self.factor
        last = c.size(2) - 1
        c = c[:, :, torch.arange(x.size(2)).clamp(max=last)]
        for block in self.generator.blocks:
            x, c = block(x, c)
        return self.generator.output_conv(x)[:, :, :samples]


SMALL = dict(
    in_channels=6,
    channels=4,
    kernel_size=3,
    noise_upsample_scales=[3, 2],
    upsample_scales=[2, 2],
)

register(
    Arch(
        role="vocoder",
        name="style_melgan_generator",
        wrap=StyleMelGAN,
        tiny={
            "softmax": SMALL,
            "sigmoid": dict(
                SMALL,
                noise_upsample_scales=[2],
                upsample_scales=[2, 1],
                gated_function="sigmoid",
            ),
        },
    )
)
