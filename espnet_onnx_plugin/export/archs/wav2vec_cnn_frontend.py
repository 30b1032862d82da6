"""``frontend: wav2vec_cnn``: the convolutions of wav2vec 2.0, trained with the rest."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.waveform import WaveformConvolutions, standardize
from espnet_onnx_plugin.export.registry import Arch, register


class CNNFrontend(WaveformConvolutions):
    """Waveform to features, ESPnet's ``CNNFrontend`` for one utterance at a time."""

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, channels), (B,)."""
        if self.extractor.normalize_audio:
            speech = standardize(speech, 1e-5)
        x = speech[:, None]
        for layer in self.extractor.layers:
            x, lengths = layer(x, lengths)
        return self.extractor.final_norm(x.transpose(1, 2)), lengths


_SHAPES = [[8, 10, 5], [8, 3, 2], [12, 2, 2]]

register(
    Arch(
        role="frontend",
        name="wav2vec_cnn",
        wrap=CNNFrontend,
        tiny={
            "group_norm": dict(
                norm_mode="group_norm", conv_mode="standard", bias=False, shapes=_SHAPES
            ),
            "layer_norm": dict(
                norm_mode="layer_norm",
                conv_mode="standard",
                bias=True,
                shapes=_SHAPES,
                normalize_audio=True,
                normalize_output=True,
            ),
        },
        limits="16 kHz",
    )
)
