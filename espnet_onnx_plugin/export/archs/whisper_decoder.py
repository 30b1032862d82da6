"""``decoder: whisper``: the text decoder of OpenAI's Whisper."""

from typing import Tuple

import torch
from torch.nn.functional import embedding

from espnet_onnx_plugin.export.archs.transformer_decoder import CrossMemory
from espnet_onnx_plugin.export.hub_text import needs_whisper
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    attend,
    cache_states,
    self_attention_step,
    split_heads,
    tree_bias,
)
from espnet_onnx_plugin.export.whisper import attention_of


class _Layer(torch.nn.Module):
    """The two attentions of a ``whisper.model.ResidualAttentionBlock``."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block
        self.self_attn = attention_of(block.attn)
        self.src_attn = attention_of(block.cross_attn)


class WhisperDecoderStep(StepModule):
    """``espnet2.asr.decoder.whisper_decoder.OpenAIWhisperDecoder``, one token."""

    def __init__(self, decoder: torch.nn.Module):
        super().__init__(decoder, TREE_INPUTS)
        self.decoder = decoder.decoders
        self.layers = torch.nn.ModuleList(_Layer(b) for b in self.decoder.blocks)
        self.memory = CrossMemory([layer.src_attn for layer in self.layers])
        self.memory_tensors = self.memory.tensors
        self.states = cache_states([layer.self_attn for layer in self.layers])
        self.max_tokens = self.decoder.positional_embedding.size(0)
        # ESPnet's expanded embedding puts it together at every call.
        self.register_buffer("embedding", self.decoder.token_embedding.weight.detach())

    def forward(self, *tensors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """See :class:`StepModule`."""
        inputs, (memory_bias, *memory), past = self.split(tensors)
        tokens, positions, kept, visible = inputs
        x = embedding(tokens.flatten(), self.embedding)
        x = x + embedding(positions.flatten(), self.decoder.positional_embedding)
        bias = tree_bias(visible)
        states = []
        for i, layer in enumerate(self.layers):
            of_layer = slice(2 * i, 2 * i + 2)
            block, attention = layer.block, layer.self_attn
            y = block.attn_ln(x)
            y, *kv = self_attention_step(attention, y, kept, bias, *past[of_layer])
            states += kv
            x = x + y
            attention = layer.src_attn
            q = attention.linear_q(block.cross_attn_ln(x)).view(*tokens.shape, -1)
            k, v = memory[of_layer]
            y = attend(attention, split_heads(attention, q), k, v, memory_bias)
            x = x + y.flatten(0, 1)
            x = x + block.mlp(block.mlp_ln(x))
        x = torch.nn.functional.linear(self.decoder.ln(x), self.embedding)
        return (torch.log_softmax(x, dim=-1), *states)


register(
    Arch(
        role="decoder",
        name="whisper",
        wrap=WhisperDecoderStep,
        tiny={"expanded": dict(whisper_model="tiny", load_origin_token_embedding=True)},
        limits="448 tokens, as Whisper's own",
        needs=needs_whisper,
    )
)
