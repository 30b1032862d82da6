"""``encoder: whisper``: log-mel and encoder of OpenAI's Whisper."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.hub_text import needs_whisper
from espnet_onnx_plugin.export.layers.whisper import WhisperEncoder, WhisperLogMel
from espnet_onnx_plugin.export.registry import Arch, register


class OpenAIWhisperEncoder(WhisperEncoder):
    """ESPnet's ``OpenAIWhisperEncoder`` behind its log-mel."""

    def __init__(self, encoder: torch.nn.Module):
        # ESPnet calls Whisper's own encoder so.
        super().__init__(encoder.encoders)

    def forward(
        self, feats: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode, and return also None, as ESPnet's encoders do."""
        return (*super().forward(feats, lengths), None)


register(
    Arch(
        role="encoder",
        name="whisper",
        wrap=OpenAIWhisperEncoder,
        features=WhisperLogMel,
        tiny={
            "any_length": dict(whisper_model="tiny", use_specaug=False),
            "pad_trim": dict(whisper_model="tiny", do_pad_trim=True),
        },
        limits="30 s, as in ESPnet: what is beyond is cut off",
        needs=needs_whisper,
    )
)
