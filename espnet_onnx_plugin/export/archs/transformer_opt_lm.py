"""``lm: transformer_opt``: OPT of Hugging Face's hub as a language model."""

from __future__ import annotations

import torch
from torch.nn.functional import embedding

from espnet_onnx_plugin.export.layers.attention import hub_attention
from espnet_onnx_plugin.export.layers.hub_text import needs_transformers
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    cache_states,
    self_attention_step,
    tree_bias,
)


class OPTStep(StepModule):
    """``espnet2.lm.huggingface_pretrained_opt_lm.HuggingfaceOPTModel``, one token."""

    def __init__(self, lm: torch.nn.Module):
        super().__init__(lm, TREE_INPUTS)
        self.decoder = lm.decoder.decoder
        self.attentions = torch.nn.ModuleList(
            hub_attention(layer.self_attn) for layer in self.decoder.layers
        )
        self.states = cache_states(list(self.attentions))
        self.max_tokens = self.decoder.max_target_positions

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, positions, kept, visible), _, past = self.split(tensors)
        decoder = self.decoder
        x = decoder.embed_tokens(tokens.flatten())
        if decoder.project_in is not None:
            x = decoder.project_in(x)
        table = decoder.embed_positions
        x = x + embedding(positions.flatten() + table.offset, table.weight)
        bias = tree_bias(visible)
        states = []
        for i, (layer, attention) in enumerate(zip(decoder.layers, self.attentions)):
            before = layer.do_layer_norm_before
            y = layer.self_attn_layer_norm(x) if before else x
            of_layer = past[2 * i : 2 * i + 2]
            y, *kv = self_attention_step(attention, y, kept, bias, *of_layer)
            states += kv
            x = x + y
            x = x if before else layer.self_attn_layer_norm(x)
            y = layer.final_layer_norm(x) if before else x
            x = x + layer.fc2(layer.activation_fn(layer.fc1(y)))
            x = x if before else layer.final_layer_norm(x)
        if decoder.final_layer_norm is not None:
            x = decoder.final_layer_norm(x)
        if decoder.project_out is not None:
            x = decoder.project_out(x)
        scores = torch.log_softmax(self.reference.lm_head(x), dim=-1)
        return (scores, *states)


register(
    Arch(
        role="lm",
        name="transformer_opt",
        wrap=OPTStep,
        tiny={
            "pre_norm": dict(opt_name="facebook/opt-125m"),
            "post_norm": dict(opt_name="facebook/opt-350m"),
        },
        limits="2048 tokens, as OPT's own",
        needs=needs_transformers,
    )
)
