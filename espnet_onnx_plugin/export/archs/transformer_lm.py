"""``lm: transformer``, with and without positions."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    cache_states,
    encode_position,
    masked,
    self_attention_step,
    tree_bias,
)


class TransformerLMStep(StepModule):
    """``espnet2.lm.transformer_lm.TransformerLM``, one token."""

    def __init__(self, lm: torch.nn.Module):
        super().__init__(lm, TREE_INPUTS)
        self.layers = lm.encoder.encoders
        self.states = {
            # ESPnet takes token 0 for padding and does not attend to it.
            "padding": State("float32", ("nodes",)),
            **cache_states([layer.self_attn for layer in self.layers]),
        }

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, positions, kept, visible), _, (padding, *past) = self.split(tensors)
        tokens = tokens.flatten()
        encoder = self.reference.encoder
        *embed, pos_enc = encoder.embed
        x = self.reference.embed(tokens)
        for module in embed:
            x = module(x)
        x = encode_position(pos_enc, x, positions.flatten())
        padding = torch.cat((padding.index_select(0, kept), masked(tokens != 0)))
        bias = tree_bias(visible) + padding
        states = [padding]
        for i, layer in enumerate(self.layers):
            residual = x
            x = layer.norm1(x) if layer.normalize_before else x
            y, *kv = self_attention_step(
                layer.self_attn, x, kept, bias, *past[2 * i : 2 * i + 2]
            )
            states += kv
            x = residual + y
            x = x if layer.normalize_before else layer.norm1(x)
            residual = x
            x = layer.norm2(x) if layer.normalize_before else x
            x = residual + layer.feed_forward(x)
            x = x if layer.normalize_before else layer.norm2(x)
        if encoder.normalize_before:
            x = encoder.after_norm(x)
        scores = torch.log_softmax(self.reference.decoder(x), dim=-1)
        return (scores, *states)


_TINY = dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=2)

register(
    Arch(
        role="lm",
        name="transformer",
        wrap=TransformerLMStep,
        tiny={
            "no_positions": _TINY,
            "sinusoidal": dict(_TINY, pos_enc="sinusoidal"),
        },
    )
)
