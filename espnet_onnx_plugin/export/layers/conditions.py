"""Style, speaker and language, which text-to-speech models are conditioned on."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer


class Style(torch.nn.Module):
    """``espnet2.tts.gst.style_encoder.StyleEncoder``: features to a style embedding.

    Attributes:
        stride: frames that become one.
    """

    def __init__(self, gst: torch.nn.Module):
        super().__init__()
        self.convs = gst.ref_enc.convs
        self.stride = gst.ref_enc.stride**gst.ref_enc.conv_layers
        gru = gst.ref_enc.gru
        self.gru = torch.nn.ModuleList(
            RecurrentLayer(gru, layer) for layer in range(gru.num_layers)
        )
        self.tokens = gst.stl

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        """(1, frames, dim) -> (1, size)."""
        hs = self.convs(feats.unsqueeze(1)).transpose(1, 2).flatten(2)
        lengths = torch.full((1,), hs.size(1), dtype=torch.int64)
        for layer in self.gru:
            hs = layer(hs, lengths)
        return self.tokens(hs[:, -1])


class Conditions(torch.nn.Module):
    """Style, speaker and language, as ESPnet's models add them to hidden states.

    Args:
        tts: ESPnet's model, with its ``gst``, ``sid_emb``, ``lid_emb``, ``projection``.
        feature_dim: size of a frame of the features that the style is taken from.

    Attributes:
        inputs: what it reads besides the hidden states.
        sizes: as of :class:`~espnet_onnx_plugin.export.tts_module.TTSModule`.
    """

    def __init__(self, tts: torch.nn.Module, feature_dim: int):
        super().__init__()
        self.inputs: dict[str, Tensor] = {}
        self.sizes: dict[str, int] = {}
        if getattr(tts, "use_gst", False):
            self.inputs["feats"] = Tensor("float32", ("frames", feature_dim))
            self.style = Style(tts.gst)
            # Fewer frames become one, and the graph would hold that for a constant.
            self.sizes["frames"] = 3 * self.style.stride
        if tts.spks is not None:
            self.inputs["sids"] = Tensor("int64", (1,))
        if tts.langs is not None:
            self.inputs["lids"] = Tensor("int64", (1,))
        if tts.spk_embed_dim is not None:
            self.inputs["spembs"] = Tensor("float32", (tts.spk_embed_dim,))
        self.tts = tts

    def forward(self, hs: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        """(1, symbols, dim) -> the same, or wider where the speaker is appended."""
        given = dict(zip(self.inputs, values))
        if "feats" in given:
            hs = hs + self.style(given["feats"][None]).unsqueeze(1)
        if "sids" in given:
            hs = hs + self.tts.sid_emb(given["sids"]).unsqueeze(1)
        if "lids" in given:
            hs = hs + self.tts.lid_emb(given["lids"]).unsqueeze(1)
        if "spembs" in given:
            hs = self.tts._integrate_with_spk_embed(hs, given["spembs"][None])
        return hs
