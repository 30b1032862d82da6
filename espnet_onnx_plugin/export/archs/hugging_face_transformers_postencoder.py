"""``postencoder: hugging_face_transformers``: BERT's or BART's encoder on another."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.attention import (
    Attention,
    attend_valid,
    hub_attention,
)
from espnet_onnx_plugin.export.layers.hub_text import needs_transformers
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register


class BertLayers(torch.nn.Module):
    """The layers of BERT and those named after it (``transformers.BertEncoder``)."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.layers = encoder.layer
        self.attentions = torch.nn.ModuleList(
            Attention(
                layer.attention.self.num_attention_heads,
                layer.attention.self.query,
                layer.attention.self.key,
                layer.attention.self.value,
                layer.attention.output.dense,
            )
            for layer in self.layers
        )

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(B, T, size), mask (B, 1, 1, T) -> (B, T, size)."""
        for layer, attention in zip(self.layers, self.attentions):
            x = layer.attention.output.LayerNorm(x + attend_valid(attention, x, valid))
            y = layer.output.dense(layer.intermediate(x))
            x = layer.output.LayerNorm(x + y)
        return x


class BartLayers(torch.nn.Module):
    """Positions and layers of BART (norms behind) and mBART (norms before)."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.encoder = encoder
        self.before = hasattr(encoder, "layer_norm")
        self.attentions = torch.nn.ModuleList(
            hub_attention(layer.self_attn) for layer in encoder.layers
        )

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(B, T, size), mask (B, 1, 1, T) -> (B, T, size)."""
        table = self.encoder.embed_positions
        x = x + table.weight[table.offset : table.offset + x.size(1)]
        x = self.encoder.layernorm_embedding(x)
        for layer, attention in zip(self.encoder.layers, self.attentions):
            norm = layer.self_attn_layer_norm
            y = attend_valid(attention, norm(x) if self.before else x, valid)
            x = x + y if self.before else norm(x + y)
            norm = layer.final_layer_norm
            y = layer.fc1(norm(x) if self.before else x)
            y = layer.fc2(layer.activation_fn(y))
            x = x + y if self.before else norm(x + y)
        return self.encoder.layer_norm(x) if self.before else x


#: By what transformers calls a model.
_LAYERS = {
    "bart": BartLayers,
    "bert": BertLayers,
    "electra": BertLayers,
    "mbart": BartLayers,
    "roberta": BertLayers,
    "xlm-roberta": BertLayers,
}


class HuggingFacePostEncoder(torch.nn.Module):
    """ESPnet's ``HuggingFaceTransformersPostEncoder``, padding kept out."""

    def __init__(self, postencoder: torch.nn.Module):
        super().__init__()
        config = postencoder.transformer.config
        kind = config.model_type
        if kind not in _LAYERS:
            raise PluginError(
                f"postencoder 'hugging_face_transformers' of model type {kind} is not "
                f"supported; supported: {', '.join(_LAYERS)}"
            )
        relative = getattr(config, "position_embedding_type", "absolute")
        if relative != "absolute":
            raise PluginError(
                "postencoder 'hugging_face_transformers' with position_embedding_type "
                f"{relative} is not supported; supported: absolute"
            )
        self.reference = postencoder
        self.layers = _LAYERS[kind](postencoder.transformer)
        token = postencoder.lang_token_embed
        self.has_token = token is not None
        if self.has_token:
            self.register_buffer("token", token[None, None])

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return self.reference.output_size()

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, dim), (B,) -> (B, T2, size), (B,)."""
        reference = self.reference
        x = reference.length_adaptor(x.transpose(1, 2)).transpose(1, 2)
        ratio = reference.length_adaptor_ratio
        lengths = torch.div(lengths, ratio, rounding_mode="floor")
        x = reference.linear_in(x)
        if self.has_token:
            x = torch.cat((self.token.expand(x.size(0), -1, -1), x), dim=1)
            lengths = lengths + 1
        valid = ~make_pad_mask(lengths, x[..., 0])[:, None, None]
        return self.layers(x, valid), lengths


register(
    Arch(
        role="postencoder",
        name="hugging_face_transformers",
        wrap=HuggingFacePostEncoder,
        tiny={
            "bert": dict(model_name_or_path="bert-base-cased"),
            "bart": dict(
                model_name_or_path="facebook/bart-base",
                length_adaptor_n_layers=1,
                lang_token_id=3,
            ),
        },
        limits="model types " + ", ".join(_LAYERS),
        needs=needs_transformers,
    )
)
