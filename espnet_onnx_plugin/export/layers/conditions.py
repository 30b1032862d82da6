"""Style, speaker and language, which models are conditioned on."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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


class GlobalCondition(torch.nn.Module):
    """Speaker and language in one vector, which VITS' generators are conditioned on.

    Args:
        generator: with ``global_emb``, ``spemb_proj`` and ``lang_emb``, as it has them.

    Attributes:
        inputs: what it reads; none where a model speaks with one voice.
        size: of the vector; None where there is none.
    """

    def __init__(self, generator: torch.nn.Module):
        super().__init__()
        self.inputs: dict[str, Tensor] = {}
        self.size: int | None = None
        if generator.spks is not None:
            self.inputs["sids"] = Tensor("int64", (1,))
            self.speaker = generator.global_emb
            self.size = self.speaker.embedding_dim
        if generator.spk_embed_dim is not None:
            self.inputs["spembs"] = Tensor("float32", (generator.spk_embed_dim,))
            self.embedded = generator.spemb_proj
            self.size = self.embedded.out_features
        if generator.langs is not None:
            self.inputs["lids"] = Tensor("int64", (1,))
            self.language = generator.lang_emb
            self.size = self.language.embedding_dim

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The vector by name; nothing where there is none."""
        if self.size is None:
            return {}
        return {"condition": Tensor("float32", (self.size,))}

    def forward(self, *values: torch.Tensor) -> torch.Tensor | None:
        """Inputs in their order -> (1, size), or None."""
        given, g = dict(zip(self.inputs, values)), None
        if "sids" in given:
            g = self.speaker(given["sids"])
        if "spembs" in given:
            spembs = self.embedded(F.normalize(given["spembs"][None]))
            g = spembs if g is None else g + spembs
        if "lids" in given:
            lids = self.language(given["lids"])
            g = lids if g is None else g + lids
        return g


def with_time(condition: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
    """The vector (size,) that a graph may read -> (1, size, 1), or None."""
    return condition[0][None, :, None] if condition else None
