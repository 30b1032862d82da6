"""``frontend: sliding_window``: frames of the waveform itself."""

from __future__ import annotations

import humanfriendly
import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.registry import Arch, register


class SlidingWindowFrontend(torch.nn.Module):
    """``espnet2.asr.frontend.windowing.SlidingWindow`` for one channel."""

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        if frontend.channels != 1:
            raise PluginError(
                f"frontend 'sliding_window' with channels: {frontend.channels} is not "
                "supported: a search hears one channel"
            )
        self.win_length = frontend.win_length
        self.hop_length = frontend.hop_length
        fs = 16000 if frontend.fs is None else frontend.fs
        #: Samples a second; ESPnet's recipes tell the frontend, which does not use it.
        self.sampling_rate = int(humanfriendly.parse_size(str(fs)))

    def shortest(self, frames: int) -> int:
        """Samples of the shortest waveform that has so many frames."""
        return self.win_length + (frames - 1) * self.hop_length

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> frames (B, frames, 1, win_length), (B,)."""
        frames = (speech.size(1) - self.win_length) // self.hop_length + 1
        first = torch.arange(frames) * self.hop_length
        index = first[:, None] + torch.arange(self.win_length)
        lengths = (lengths - self.win_length) // self.hop_length + 1
        return speech[:, index][:, :, None], lengths


register(
    Arch(
        role="frontend",
        name="sliding_window",
        wrap=SlidingWindowFrontend,
        tiny={"window400": dict(hop_length=160, fs="8k")},
        limits="one channel",
    )
)
