"""Decoders of other packages that attend to the encoder output, one token a step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn.functional import embedding

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.archs.transformer_decoder import (
    CrossMemory,
    Part,
    cross_part,
)
from espnet_onnx_plugin.export.layers.attention import Attention, hub_attention
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    cache_states,
    node_positions,
    self_attention_step,
    tree_bias,
)


class _Memory(CrossMemory):
    """Keys and values of the encoder output in the decoder's size."""

    def __init__(self, attentions: Sequence[torch.nn.Module], linear_in):
        super().__init__(attentions)
        self.linear_in = linear_in

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return super().forward(self.linear_in(encoder_out), encoder_out_lens)


class CrossAttentionStep(StepModule):
    """A decoder whose layers attend to the past and to the encoder output.

    Args:
        reference: ESPnet's module.
        self_attns, src_attns: those of each layer, under ESPnet's names.
        linear_in: from the encoder's size to the decoder's.
    """

    def __init__(
        self,
        reference: torch.nn.Module,
        self_attns: Iterable[torch.nn.Module],
        src_attns: Iterable[torch.nn.Module],
        linear_in: torch.nn.Module,
    ):
        super().__init__(reference, TREE_INPUTS)
        self.self_attns = torch.nn.ModuleList(self_attns)
        self.src_attns = torch.nn.ModuleList(src_attns)
        self.memory = _Memory(self.src_attns, linear_in)
        self.memory_tensors = self.memory.tensors
        self.states = cache_states(list(self.self_attns))

    def parts(
        self,
        rows: Sequence[int],
        kept: torch.Tensor,
        bias: torch.Tensor,
        memory: Sequence[torch.Tensor],
        past: Sequence[torch.Tensor],
        states: list[torch.Tensor],
    ) -> Iterator[tuple[Part, Part]]:
        """The two attentions of each layer; the first appends its new states.

        Args:
            rows: utterances and hypotheses.
            kept, bias: see :func:`self_attention_step`.
            memory, past: as the step gets them.
            states: what the step returns.
        """
        for i, (attention, src_attn) in enumerate(zip(self.self_attns, self.src_attns)):

            def attend_past(x, attention=attention, past=past[2 * i : 2 * i + 2]):
                y, *new = self_attention_step(attention, x, kept, bias, *past)
                states.extend(new)
                return y

            yield attend_past, cross_part(src_attn, rows, i, memory)


class BartDecoderStep(CrossAttentionStep):
    """``transformers.BartDecoder`` (norms behind) and ``MBartDecoder`` (norms before).

    Args:
        decoder: ESPnet's.
    """

    def __init__(self, decoder: torch.nn.Module):
        layers = decoder.decoder.layers
        super().__init__(
            decoder,
            [hub_attention(layer.self_attn) for layer in layers],
            [hub_attention(layer.encoder_attn) for layer in layers],
            decoder.linear_in,
        )
        self.decoder = decoder.decoder
        self.lm_head = decoder.lm_head
        self.before = hasattr(self.decoder, "layer_norm")
        self.max_tokens = self.decoder.config.max_position_embeddings

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, positions, kept, visible), memory, past = self.split(tensors)
        table = self.decoder.embed_positions
        x = self.decoder.embed_tokens(tokens.flatten())
        x = x + embedding(positions.flatten() + table.offset, table.weight)
        x = self.decoder.layernorm_embedding(x)
        states: list[torch.Tensor] = []
        parts = self.parts(tokens.shape, kept, tree_bias(visible), memory, past, states)
        for layer, (attend_past, attend_memory) in zip(self.decoder.layers, parts):
            x = self._residual(layer.self_attn_layer_norm, x, attend_past)
            x = self._residual(layer.encoder_attn_layer_norm, x, attend_memory)
            x = self._residual(
                layer.final_layer_norm,
                x,
                lambda y, layer=layer: layer.fc2(layer.activation_fn(layer.fc1(y))),
            )
        if self.before:
            x = self.decoder.layer_norm(x)
        return (torch.log_softmax(self.lm_head(x), dim=-1), *states)

    def _residual(
        self, norm: torch.nn.Module, x: torch.Tensor, part: Part
    ) -> torch.Tensor:
        return x + part(norm(x)) if self.before else norm(x + part(x))


class T5DecoderStep(CrossAttentionStep):
    """The decoder of T5 and mT5, ``transformers.T5Stack``.

    Its attention knows how far tokens are apart, so each node carries its position.

    Args:
        decoder: ESPnet's.
    """

    def __init__(self, decoder: torch.nn.Module):
        blocks = decoder.decoder.block
        super().__init__(
            decoder,
            [_t5_attention(block.layer[0].SelfAttention) for block in blocks],
            [_t5_attention(block.layer[1].EncDecAttention) for block in blocks],
            decoder.linear_in,
        )
        self.decoder = decoder.decoder
        self.lm_head = decoder.lm_head
        self.states["node_positions"] = State("int64", ("nodes",))
        config = self.decoder.config
        #: What transformers' model multiplies the output with.
        self.scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, positions, kept, visible), memory, past = self.split(tensors)
        *past, nodes = past
        nodes = node_positions(nodes, kept, positions)
        bias = tree_bias(visible) + self._distances(positions.flatten(), nodes)
        x = self.decoder.embed_tokens(tokens.flatten())
        states: list[torch.Tensor] = []
        parts = self.parts(tokens.shape, kept, bias, memory, past, states)
        for block, (attend_past, attend_memory) in zip(self.decoder.block, parts):
            self_layer, cross_layer, feed_forward = block.layer
            x = x + attend_past(self_layer.layer_norm(x))
            x = x + attend_memory(cross_layer.layer_norm(x))
            x = feed_forward(x)
        x = self.decoder.final_layer_norm(x) * self.scale
        return (torch.log_softmax(self.lm_head(x), dim=-1), *states, nodes)

    def _distances(self, positions: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """The bias of all layers, which the first one has: (h, rows, nodes)."""
        attention = self.decoder.block[0].layer[0].SelfAttention
        buckets = attention._relative_position_bucket(
            nodes[None] - positions[:, None],
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        return attention.relative_attention_bias(buckets).permute(2, 0, 1)


def _t5_attention(module: torch.nn.Module) -> Attention:
    """T5's attention under ESPnet's names: it does not scale its scores down."""
    q = copy.deepcopy(module.q)
    q.weight.data *= module.key_value_proj_dim**0.5
    return Attention(module.n_heads, q, module.k, module.v, module.o)
