"""``decoder: whisper``: the text decoder of OpenAI's Whisper."""

from __future__ import annotations

import torch
from torch.nn.functional import embedding

from espnet_onnx_plugin.export.layers.hub_steps import CrossAttentionStep
from espnet_onnx_plugin.export.layers.hub_text import needs_whisper
from espnet_onnx_plugin.export.layers.whisper import attention_of
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import tree_bias


class WhisperDecoderStep(CrossAttentionStep):
    """``espnet2.asr.decoder.whisper_decoder.OpenAIWhisperDecoder``, one token."""

    def __init__(self, decoder: torch.nn.Module):
        blocks = decoder.decoders.blocks
        super().__init__(
            decoder,
            [attention_of(block.attn) for block in blocks],
            [attention_of(block.cross_attn) for block in blocks],
            torch.nn.Identity(),
        )
        self.decoder = decoder.decoders
        self.max_tokens = self.decoder.positional_embedding.size(0)
        # ESPnet's expanded embedding puts it together at every call.
        self.register_buffer("embedding", self.decoder.token_embedding.weight.detach())

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, positions, kept, visible), memory, past = self.split(tensors)
        x = embedding(tokens.flatten(), self.embedding)
        x = x + embedding(positions.flatten(), self.decoder.positional_embedding)
        states: list[torch.Tensor] = []
        parts = self.parts(tokens.shape, kept, tree_bias(visible), memory, past, states)
        for block, (attend_past, attend_memory) in zip(self.decoder.blocks, parts):
            x = x + attend_past(block.attn_ln(x))
            x = x + attend_memory(block.cross_attn_ln(x))
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
