"""``encoder: torchaudiohubert``: HuBERT as torchaudio has it, from the waveform."""

from __future__ import annotations

from typing import Any

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.ssl_layers import attend
from espnet_onnx_plugin.export.layers.waveform import (
    PlainConvolutions,
    WaveformConvolutions,
)
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


class TorchAudioHubert(torch.nn.Module):
    """``TorchAudioHuBERTPretrainEncoder`` in inference, less its first convolutions."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        if not encoder.finetuning:
            raise PluginError(
                "encoder 'torchaudiohubert' with finetuning: false is not supported: "
                "it is a pretraining model, which ESPnet cannot decode with either"
            )
        model = encoder.hubert_pretrain_model.wav2vec2.encoder
        self.feature_projection = model.feature_projection
        self.transformer = model.transformer
        self.plain = PlainConvolutions(self.transformer)
        self.output_size = encoder.output_size

    def forward(
        self, feats: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(B, frames, channels), (B,) -> (B, frames, dim), (B,), None."""
        padding = make_pad_mask(lengths, maxlen=feats.size(1))
        x = self.feature_projection(feats).masked_fill(padding[:, :, None], 0.0)
        attention = type(self.transformer.layers[0].attention)
        with self.plain.in_place():
            with replaced(attention, "forward", _attention):
                x = self.transformer(x, attention_mask=padding[:, None, None, :])
        return x, lengths, None


def _attention(
    self: torch.nn.Module,
    x: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """``SelfAttention.forward`` of torchaudio, in plain operations."""
    return attend(self, x, padding=attention_mask), None


def _features(encoder: torch.nn.Module) -> torch.nn.Module:
    model = encoder.hubert_pretrain_model.wav2vec2
    return WaveformConvolutions(model.feature_extractor)


_TINY = dict(
    extractor_conv_layer_config=[[8, 10, 5], [8, 3, 2], [20, 2, 2]],
    encoder_embed_dim=8,
    encoder_pos_conv_kernel=6,
    encoder_pos_conv_groups=2,
    encoder_num_layers=2,
    encoder_num_heads=2,
    encoder_ff_interm_features=12,
    num_classes=4,
    final_dim=4,
    finetuning=True,
)

register(
    Arch(
        role="encoder",
        name="torchaudiohubert",
        wrap=TorchAudioHubert,
        features=_features,
        tiny={
            "base": _TINY,
            "large": dict(
                _TINY,
                extractor_mode="layer_norm",
                extractor_conv_bias=True,
                encoder_layer_norm_first=True,
            ),
        },
        limits="a model for decoding, that is finetuning: true",
    )
)
