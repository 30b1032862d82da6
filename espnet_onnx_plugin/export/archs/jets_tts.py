"""``tts: jets``: FastSpeech2 and a HiFi-GAN generator, trained together."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.export.archs.hifigan_generator_vocoder import HiFiGAN
from espnet_onnx_plugin.export.layers.durations import DurationDecoder, DurationEncoder
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModules


class _Decoder(DurationDecoder):
    """Hidden states, spread over the frames by Gaussians, to what the generator reads.

    ``espnet2.gan_tts.jets.length_regulator.GaussianUpsampling``.
    """

    def __init__(self, tts: torch.nn.Module, encoder: DurationEncoder):
        super().__init__(tts, encoder)
        self.delta = tts.length_regulator.delta
        self.inputs = {
            **self.inputs,
            "duration": encoder.outputs["duration"],
        }
        _, width = encoder.outputs["hidden"].axes
        self.outputs = {"feats": Tensor("float32", ("frames", width))}

    def forward(self, hidden: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """(symbols, dim), pitch, energy, index (frames,), duration -> (frames, dim)."""
        *variances, index, duration = others
        hs = self.with_variances(hidden, *variances)
        frames = torch.arange(index.size(0)).float()
        centres = duration.cumsum(dim=0) - duration / 2
        distance = (frames[:, None] - centres[None]).square()
        weights = torch.softmax(-self.delta * distance, dim=1)
        zs, _ = self.decoder(weights[None] @ hs, None)
        return zs[0]


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.gan_tts.jets.JETS``, without speed control and teacher forcing.

    ESPnet has neither for it: it averages pitch by durations that are given, and hands
    these on to JETS, which does not take them.
    """
    generator = tts.generator
    encoder = DurationEncoder(generator, generator.odim, None)
    _, width = encoder.outputs["hidden"].axes
    modules = {
        "encoder": encoder,
        "decoder": _Decoder(generator, encoder),
        "vocoder": HiFiGAN(generator.generator, width),
    }
    search = Durations(rounding="round")
    return TTSModules(modules, search, vocoder_reads="feats")


register(
    Arch(
        role="tts",
        name="jets",
        wrap=wrap,
        tiny={
            "conformer": dict(
                generator_params=dict(
                    adim=8,
                    aheads=2,
                    elayers=1,
                    eunits=8,
                    dlayers=1,
                    dunits=8,
                    encoder_type="conformer",
                    decoder_type="conformer",
                    conformer_rel_pos_type="latest",
                    conformer_dec_kernel_size=7,
                    duration_predictor_chans=8,
                    pitch_predictor_chans=8,
                    energy_predictor_chans=8,
                    generator_channels=8,
                    generator_upsample_scales=[4, 2],
                    generator_upsample_kernel_sizes=[8, 4],
                    generator_resblock_kernel_sizes=[3],
                    generator_resblock_dilations=[[1, 3]],
                    spks=3,
                    segment_size=4,
                ),
                discriminator_type="hifigan_period_discriminator",
                discriminator_params=dict(period=2, channels=4, downsample_scales=[2]),
            ),
        },
    )
)
