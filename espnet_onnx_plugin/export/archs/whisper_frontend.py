"""``frontend: whisper``: the output of Whisper's encoder as features."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.hub_text import needs_whisper
from espnet_onnx_plugin.export.layers.whisper import WhisperEncoder, WhisperLogMel
from espnet_onnx_plugin.export.registry import Arch, register


class WhisperFrontend(torch.nn.Module):
    """ESPnet's ``WhisperFrontend`` for one utterance at a time."""

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        self.log_mel = WhisperLogMel(frontend)
        self.encoder = WhisperEncoder(frontend.whisper.encoder)
        self.sampling_rate = self.log_mel.sampling_rate

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        return self.log_mel.shortest(2 * frames - 1)

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, size), (B,)."""
        return self.encoder(*self.log_mel(speech, lengths))


register(
    Arch(
        role="frontend",
        name="whisper",
        wrap=WhisperFrontend,
        tiny={"features": dict(whisper_model="tiny")},
        limits="30 s, as in ESPnet: what is beyond is cut off",
        needs=needs_whisper,
    )
)
