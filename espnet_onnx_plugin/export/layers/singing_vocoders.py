"""Vocoders that VISinger is trained with.

The sines that they read are made for the whole song outside of the graph, see
:mod:`~espnet_onnx_plugin.runtime.synthesis.excitation`; a graph sees some frames of it.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Excitation, Tensor
from espnet_onnx_plugin.export.archs.hifigan_generator_vocoder import HiFiGAN
from espnet_onnx_plugin.export.layers.conditions import with_time
from espnet_onnx_plugin.export.layers.vocoder import Vocoder

#: Those that read sines of the fundamental frequency, by ESPnet's names.
EXCITED = ("uhifigan", "visinger2")


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


def vocoder_of(generator: torch.nn.Module, condition: int | None) -> Vocoder:
    """The vocoder of VISinger's generator.

    Args:
        generator: ``espnet2.gan_svs.vits.generator.VISingerGenerator``.
        condition: size of the vector that the whole song is conditioned on, or None.
    """
    name = generator.vocoder_generator_type
    settings = dict(
        generator=generator.decoder,
        dim=generator.hidden_channels,
        condition=condition,
        factor=generator.upsample_factor,
    )
    if name == "hifigan":
        return HiFiGAN(**settings)
    if name == "avocodo":
        return Avocodo(**settings)
    if name == "uhifigan":
        return UHiFiGAN(**settings)
    return VISinger2(generator.sin_prenet, **settings)


def excitation_of(generator: torch.nn.Module) -> Excitation | None:
    """Sines of the fundamental frequency that a generator's vocoder reads, or None."""
    if generator.vocoder_generator_type == "uhifigan":
        sines = generator.sine_generator
        return Excitation(
            kind="source_filter",
            sampling_rate=sines.sampling_rate,
            interpolated=generator.expand_f0_method == "interpolation",
            sine_amp=sines.sine_amp,
            noise_std=sines.noise_std,
            voiced_threshold=sines.voiced_threshold,
        )
    if generator.vocoder_generator_type == "visinger2":
        # The noise of ``dec_noise`` is drawn, and no waveform is made of it.
        return Excitation(
            kind="sines",
            sampling_rate=generator.sample_rate,
            unused_draws=generator.dec_noise.fft_size // 2 + 1,
        )
    return None
