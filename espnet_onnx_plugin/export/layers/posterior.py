"""Speech to the latents that VITS' vocoders read, for teacher forcing."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.conditions import with_time
from espnet_onnx_plugin.export.layers.vocoder import fold_weight_norm


class Posterior(torch.nn.Module):
    """``espnet2.gan_tts.vits.posterior_encoder.PosteriorEncoder``.

    Args:
        generator: whose it is.

    Attributes:
        inputs: features, and the noise of the latents; the condition may follow.
        width: of the latents.
    """

    def __init__(self, generator: torch.nn.Module):
        super().__init__()
        self.posterior = generator.posterior_encoder
        fold_weight_norm(self.posterior)
        self.width = self.posterior.proj.out_channels // 2
        size = self.posterior.input_conv.in_channels
        self.inputs: dict[str, Tensor] = {
            "feats": Tensor("float32", ("frames", size)),
            "noise": Tensor("float32", (self.width, "frames")),
        }

    def forward(
        self, feats: torch.Tensor, noise: torch.Tensor, *condition: torch.Tensor
    ) -> torch.Tensor:
        """(frames, size), (width, frames), condition -> (1, width, frames)."""
        x = self.posterior.input_conv(feats.T[None])
        g, mask = with_time(condition), torch.ones(1, 1, 1)
        x = self.posterior.proj(self.posterior.encoder(x, mask, g=g))
        mean, log_scale = x.chunk(2, dim=1)
        return mean + noise * log_scale.exp()
