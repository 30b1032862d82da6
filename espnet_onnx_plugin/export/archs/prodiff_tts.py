"""``tts: prodiff``: FastSpeech2 with a decoder that denoises in a few steps."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.export.archs.fastspeech2_tts import SMALL
from espnet_onnx_plugin.export.layers.durations import DurationEncoder, FeatureDecoder
from espnet_onnx_plugin.export.layers.generated_features import with_postnet
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModules


class _Decoder(FeatureDecoder):
    """The diffusion decoder: one noise to begin with, and one for each step."""

    def __init__(self, tts, encoder, normalize):
        super().__init__(tts, encoder, normalize)
        shape = (tts.decoder.timesteps + 1, tts.odim, "frames")
        self.inputs = {**self.inputs, "noise": Tensor("float32", shape)}
        beta = tts.decoder.betas.double()
        product = torch.cumprod(1 - beta, dim=0)
        before = torch.cat((torch.ones(1, dtype=torch.float64), product[:-1]))
        of_denoised = beta * before.sqrt() / (1 - product)
        of_noisy = (1 - before) * (1 - beta).sqrt() / (1 - product)
        deviation = (beta * (1 - before) / (1 - product)).clamp(min=1e-20).sqrt()
        #: By step: factors of the denoised, of the noisy, and of new noise.
        self.factors = torch.stack((of_denoised, of_noisy, deviation), dim=1).tolist()

    def forward(self, hidden: torch.Tensor, *others: torch.Tensor):
        *variances, index, noise = others
        hs = self.with_variances(hidden, *variances)[:, index]
        feats = with_postnet(self, self._denoise(hs, noise))
        return tuple(self.features(feats[0]))

    def _denoise(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``SpectogramDenoiser.inference``: (1, frames, dim) -> (1, frames, odim)."""
        denoiser = self.decoder
        noisy = noise[:1]
        for i, step in enumerate(reversed(range(denoiser.timesteps)), 1):
            of_denoised, of_noisy, deviation = self.factors[step]
            denoised = denoiser.forward_denoise(
                noisy[:, None], torch.tensor([step]), condition
            )
            noisy = of_denoised * denoised + of_noisy * noisy
            if step > 0:
                noisy = noisy + deviation * noise[i : i + 1]
        return noisy.transpose(1, 2)


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.tts.prodiff.ProDiff``; ESPnet has no speed control for it."""
    encoder = DurationEncoder(tts, tts.odim, tts.eos)
    decoder = FeatureDecoder if tts.decoder_type != "diffusion" else _Decoder
    return TTSModules(
        {"encoder": encoder, "decoder": decoder(tts, encoder, normalize)},
        Durations(
            rounding="round",
            teacher_forcing=("speech", "durations", *encoder.variances),
        ),
    )


register(
    Arch(
        role="tts",
        name="prodiff",
        wrap=wrap,
        tiny={
            "diffusion": dict(
                {k: v for k, v in SMALL.items() if k not in ("dlayers", "dunits")},
                denoiser_layers=2,
                denoiser_channels=8,
                diffusion_steps=3,
            ),
        },
    )
)
