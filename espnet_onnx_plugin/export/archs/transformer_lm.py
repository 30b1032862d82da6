"""``lm: transformer``, with and without positions."""

from typing import Tuple

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    StepModule,
    cache_states,
    encode_position,
    masked,
    self_attention_step,
)


class TransformerLMStep(StepModule):
    """``espnet2.lm.transformer_lm.TransformerLM``, one token."""

    def __init__(self, lm: torch.nn.Module):
        super().__init__(lm)
        self.layers = lm.encoder.encoders
        self.states = {
            # ESPnet takes token 0 for padding and does not attend to it.
            "bias": State("float32", ("rows", 1, 1, "past")),
            **cache_states([layer.self_attn for layer in self.layers]),
        }

    def forward(
        self, tokens: torch.Tensor, parents: torch.Tensor, *tensors: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        """See :class:`StepModule`."""
        tokens, parents = tokens.flatten(), parents.flatten()
        bias, *past = tensors
        encoder = self.reference.encoder
        *embed, pos_enc = encoder.embed
        x = self.reference.embed(tokens)
        for module in embed:
            x = module(x)
        x = encode_position(pos_enc, x, bias.size(3))
        newest = masked(tokens != 0)[:, None, None, None]
        bias = torch.cat((bias.index_select(0, parents), newest), dim=3)
        states = [bias]
        for i, layer in enumerate(self.layers):
            residual = x
            x = layer.norm1(x) if layer.normalize_before else x
            y, *kv = self_attention_step(
                layer.self_attn, x, parents, *past[2 * i : 2 * i + 2], bias
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
