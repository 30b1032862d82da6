"""Vocoders that VISinger is trained with, besides HiFi-GAN.

What they make of the fundamental frequency before the first layer is made for the
whole song outside of the graph, see :mod:`~espnet_onnx_plugin.runtime.synthesis.
excitation`; a graph sees some frames of it.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.conditions import with_time
from espnet_onnx_plugin.export.layers.vocoder import Vocoder


class Avocodo(Vocoder):
    """``espnet2.gan_svs.avocodo.AvocodoGenerator``, of which the last waveform counts.

    It has the full sampling rate; the others are for the discriminators.
    """

    def generate(self, c: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        return self.generator(c, g=with_time(condition))[-1]


class _Excited(Vocoder):
    """A vocoder that reads an excitation, of as many samples as it makes."""

    def source(self) -> dict[str, Tensor]:
        return {"excitation": Tensor("float32", ("frames", self.factor))}


class UHiFiGAN(_Excited):
    """``espnet2.gan_svs.uhifigan.UHiFiGANGenerator``."""

    def generate(
        self, c: torch.Tensor, excitation: torch.Tensor, *condition: torch.Tensor
    ) -> torch.Tensor:
        sines = excitation.reshape(1, 1, -1)
        return self.generator(c, excitation=sines, g=with_time(condition))


class VISinger2(_Excited):
    """``espnet2.gan_svs.visinger2.VISinger2VocoderGenerator`` and its prenet of sines.

    Args:
        prenet: ``sin_prenet`` of the model.
        args, kwargs: as of :class:`~.vocoder.Vocoder`.
    """

    def __init__(self, prenet: torch.nn.Module, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.prenet = prenet

    def generate(
        self, c: torch.Tensor, excitation: torch.Tensor, *condition: torch.Tensor
    ) -> torch.Tensor:
        sines = self.prenet(excitation.reshape(1, 1, -1))
        return self.generator(c, sines, g=with_time(condition))
