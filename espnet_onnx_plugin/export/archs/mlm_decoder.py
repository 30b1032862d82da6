"""``decoder: mlm``: the masked language model of Mask-CTC (Higuchi et al. 2020)."""

from __future__ import annotations

from functools import partial

import torch

from espnet_onnx_plugin.export.archs.transformer_decoder import (
    CrossMemory,
    check_embedding,
    cross_attention,
    decoder_layer,
)
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.export.steps import attend, masked, normed, split_heads


class MaskDecoder(SequenceModule):
    """``espnet2.asr.decoder.mlm_decoder.MLMDecoder``."""

    def __init__(self, decoder: torch.nn.Module):
        check_embedding(decoder)
        super().__init__(decoder)
        self.layers = decoder.decoders
        self.memory = CrossMemory([layer.src_attn for layer in self.layers])
        self.memory_tensors = self.memory.tensors

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Score every token at every position."""
        tokens, tokens_lens, memory_bias, *memory = tensors
        bias = masked(~make_pad_mask(tokens_lens, tokens))[:, None, None]
        x = self.reference.embed(tokens)
        for i, layer in enumerate(self.layers):
            k, v = memory[2 * i : 2 * i + 2]
            x = decoder_layer(
                layer,
                x,
                partial(_self_attention, layer.self_attn, bias),
                partial(cross_attention, layer.src_attn, k=k, v=v, bias=memory_bias),
            )
        if self.reference.normalize_before:
            x = self.reference.after_norm(x)
        return self.reference.output_layer(x)


def _self_attention(attention, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    q = normed(attention, "q_norm", split_heads(attention, attention.linear_q(x)))
    k = normed(attention, "k_norm", split_heads(attention, attention.linear_k(x)))
    v = split_heads(attention, attention.linear_v(x))
    return attend(attention, q, k, v, bias)


register(
    Arch(
        role="decoder",
        name="mlm",
        wrap=MaskDecoder,
        tiny={
            "post_norm": dict(
                attention_heads=2,
                linear_units=12,
                num_blocks=2,
                normalize_before=False,
                concat_after=True,
            ),
        },
        limits="input_layer embed; with model maskctc",
    )
)
