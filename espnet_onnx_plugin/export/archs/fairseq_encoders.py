"""``encoder: wav2vec2`` and ``encoder: hubert``: fairseq's, from the waveform."""

from __future__ import annotations

import importlib

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.ssl_layers import traceable_fairseq
from espnet_onnx_plugin.export.layers.waveform import (
    PlainConvolutions,
    WaveformConvolutions,
)
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register


def needs_fairseq() -> None:
    """Import fairseq, which ESPnet builds these encoders with.

    Raises:
        PluginError: if it is not installed.
    """
    try:
        importlib.import_module("fairseq")
    except (ImportError, ValueError) as e:  # the second from Python 3.11 on
        raise PluginError(
            f"this encoder needs the package fairseq ({e}): install ESPnet's copy with "
            "its tools/installers/install_fairseq.sh, on Python 3.10"
        )


class FairseqEncoder(torch.nn.Module):
    """``FairSeqWav2Vec2Encoder`` or ``FairseqHubertEncoder``, less the convolutions.

    ESPnet's batches let both see some of the padding; here each utterance gets what it
    gets alone.
    """

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        model = encoder.encoders
        if getattr(model, "input_quantizer", None) is not None:
            raise PluginError("a wav2vec 2.0 with quantize_input is not supported")
        if getattr(model, "crop_seq_to_multiple", 1) != 1:
            raise PluginError(
                "a wav2vec 2.0 with crop_seq_to_multiple "
                f"{model.crop_seq_to_multiple} is not supported"
            )
        self.layer_norm = model.layer_norm
        self.projection = model.post_extract_proj
        self.transformer = model.encoder
        self.plain = PlainConvolutions(self.transformer)
        self.output_layer = encoder.output_layer
        self.after_norm = encoder.after_norm if encoder.normalize_before else None
        self.output_size = encoder.output_size

    def forward(
        self, feats: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(B, frames, channels), (B,) -> (B, frames, dim), (B,), None."""
        x = self.layer_norm(feats)
        if self.projection is not None:
            x = self.projection(x)
        padding = make_pad_mask(lengths, maxlen=feats.size(1))
        with self.plain.in_place(), traceable_fairseq(self.transformer):
            x = self.transformer(x, padding_mask=padding)[0]
        for layer in (self.output_layer, self.after_norm):
            if layer is not None:
                x = layer(x)
        return x, lengths, None


class _Extractor(torch.nn.Module):
    def __init__(self, extractor: torch.nn.Module):
        super().__init__()
        self.extractor = extractor

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for conv in self.extractor.modules():
            if isinstance(conv, torch.nn.Conv1d):
                lengths = lengths - conv.kernel_size[0]
                lengths = torch.div(lengths, conv.stride[0], rounding_mode="floor") + 1
        return self.extractor(speech).transpose(1, 2), lengths


def _features(encoder: torch.nn.Module) -> torch.nn.Module:
    return WaveformConvolutions(_Extractor(encoder.encoders.feature_extractor))


for _name, _conf in {
    "wav2vec2": dict(w2v_url="wav2vec2_local.pt", normalize_before=True),
    "hubert": dict(hubert_url="hubert_local.pt"),
}.items():
    register(
        Arch(
            role="encoder",
            name=_name,
            wrap=FairseqEncoder,
            features=_features,
            tiny={"projected": dict(_conf, output_size=8)},
            limits="needs fairseq, which imports on Python 3.10 at most",
            needs=needs_fairseq,
        )
    )
