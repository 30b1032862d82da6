"""``decoder: transformer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    attend,
    cache_states,
    encode_position,
    masked,
    normed,
    self_attention_step,
    split_heads,
    tree_bias,
)

#: A part of a decoder layer: the layer's input to what is added to it.
Part = Callable[[torch.Tensor], torch.Tensor]


class CrossMemory(torch.nn.Module):
    """Keys and values of the encoder output for every attention, and the padding's
    bias.

    Args:
        attentions: what reads them.
        name: what the names of the results begin with.
        frames: what the axis of frames is called.
    """

    def __init__(
        self,
        attentions: Sequence[torch.nn.Module],
        name: str = "memory",
        frames: str = "frames",
    ):
        super().__init__()
        self.attentions = torch.nn.ModuleList(attentions)
        self.name = name
        self.frames = frames

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The results by name, in order."""
        bias = Tensor("float32", ("utterances", 1, 1, self.frames))
        tensors = {f"{self.name}_bias": bias}
        for i, attention in enumerate(self.attentions):
            axes = ("utterances", attention.h, self.frames, attention.d_k)
            tensors[f"{self.name}_k_{i}"] = Tensor("float32", axes)
            tensors[f"{self.name}_v_{i}"] = Tensor("float32", axes)
        return tensors

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        valid = ~make_pad_mask(encoder_out_lens, encoder_out[..., 0])
        tensors = [masked(valid)[:, None, None]]
        for attention in self.attentions:
            k = split_heads(attention, attention.linear_k(encoder_out))
            tensors.append(normed(attention, "k_norm", k))
            tensors.append(split_heads(attention, attention.linear_v(encoder_out)))
        return tuple(tensors)


def cross_attention(
    attention: torch.nn.Module,
    x: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """Attention to the keys, values and bias of a :class:`CrossMemory`.

    Args:
        x: (utterances, queries, size).
    """
    q = normed(attention, "q_norm", split_heads(attention, attention.linear_q(x)))
    return attend(attention, q, k, v, bias)


def cross_part(
    attention: torch.nn.Module,
    rows: Sequence[int],
    index: int,
    memory: Sequence[torch.Tensor],
) -> Part:
    """A layer's :func:`cross_attention` of the newest tokens.

    Args:
        rows: utterances and hypotheses.
        index: of the attention in the memory.
        memory: what :class:`CrossMemory` gave.
    """
    bias, k, v = memory[0], *memory[2 * index + 1 : 2 * index + 3]

    def part(x: torch.Tensor) -> torch.Tensor:
        x = x.view(*rows, -1)
        return cross_attention(attention, x, k, v, bias).flatten(0, 1)

    return part


def decoder_layer(
    layer: torch.nn.Module,
    x: torch.Tensor,
    self_attention: Part,
    cross: Part,
    sequential: Part | None = None,
) -> torch.Tensor:
    """ESPnet's ``DecoderLayer`` around the attentions that it is given."""

    def concat(number: int) -> str:
        return f"concat_linear{number}" if layer.concat_after else ""

    x = _residual(layer, layer.norm1, x, self_attention, concat(1))
    if sequential is not None:
        x = _residual(layer, layer.norm4, x, sequential, concat(3))
    x = _residual(layer, layer.norm2, x, cross, concat(2))
    return _residual(layer, layer.norm3, x, layer.feed_forward)


def _residual(layer, norm, x: torch.Tensor, part: Part, concat: str = ""):
    residual = x
    x = norm(x) if layer.normalize_before else x
    y = part(x)
    if concat:
        y = getattr(layer, concat)(torch.cat((x, y), dim=-1))
    x = residual + y
    return x if layer.normalize_before else norm(x)


def check_embedding(decoder: torch.nn.Module) -> None:
    """Refuse what a decoder of this family cannot score tokens with."""
    if not isinstance(decoder.embed[0], torch.nn.Embedding):
        raise PluginError(
            "a decoder with input_layer other than embed is not supported: a search "
            "feeds token ids"
        )
    if decoder.output_layer is None:
        raise PluginError(
            "a decoder with use_output_layer: false is not supported: it scores no "
            "tokens"
        )


class TransformerDecoderStep(StepModule):
    """``espnet2.asr.decoder.transformer_decoder.TransformerDecoder``, one token.

    What stands in the place of self-attention is for subclasses to change: their inputs
    begin with ``tokens`` and ``positions`` too.
    """

    def __init__(
        self, decoder: torch.nn.Module, inputs: Mapping[str, Tensor] = TREE_INPUTS
    ):
        check_embedding(decoder)
        super().__init__(decoder, inputs)
        self.hidden_size = decoder.output_layer.in_features
        self.layers = decoder.decoders
        self.memory = CrossMemory([layer.src_attn for layer in self.layers])
        self.memory_tensors = self.memory.tensors
        self.states = self.past_states()

    def past_states(self) -> dict[str, State]:
        """The states of the past, as many for each layer."""
        return cache_states([layer.self_attn for layer in self.layers])

    def past_inputs(self, inputs: Sequence[torch.Tensor]) -> Sequence[Any]:
        """Inputs of every layer's :meth:`mix`, from those behind the positions."""
        kept, visible = inputs
        return kept, tree_bias(visible)

    def mix(
        self,
        attention: torch.nn.Module,
        inputs: Sequence[Any],
        past: Sequence[torch.Tensor],
        states: list[torch.Tensor],
        x: torch.Tensor,
    ) -> torch.Tensor:
        """Self-attention of the newest tokens (rows, size); appends the new states."""
        kept, bias = inputs
        y, *new = self_attention_step(attention, x, kept, bias, *past)
        states += new
        return y

    def crossings(
        self, index: int, rows: Sequence[int], memory: Sequence[torch.Tensor]
    ) -> dict[str, Part]:
        """A layer's attentions to the memory, as :func:`decoder_layer` takes them."""
        attention = self.layers[index].src_attn
        return {"cross": cross_part(attention, rows, index, memory)}

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        inputs, memory, past = self.split(tensors)
        tokens, positions, *rest = inputs
        embedding, pos_enc = self.reference.embed
        x = encode_position(pos_enc, embedding(tokens.flatten()), positions.flatten())
        past_inputs = self.past_inputs(rest)
        states: list[torch.Tensor] = []
        each = len(past) // len(self.layers)
        for i, layer in enumerate(self.layers):
            of_layer = past[each * i : each * (i + 1)]
            x = decoder_layer(
                layer,
                x,
                partial(self.mix, layer.self_attn, past_inputs, of_layer, states),
                **self.crossings(i, tokens.shape, memory),
            )
        if self.reference.normalize_before:
            x = self.reference.after_norm(x)
        scores = torch.log_softmax(self.reference.output_layer(x), dim=-1)
        return (scores, *([x] if self.returns_hidden else []), *states)


register(
    Arch(
        role="decoder",
        name="transformer",
        wrap=TransformerDecoderStep,
        tiny={
            "pre_norm": dict(
                attention_heads=2,
                linear_units=20,
                num_blocks=2,
                qk_norm=True,
                use_flash_attn=True,
                layer_drop_rate=0.2,
                gradient_checkpoint_layers=[1],
            ),
            "post_norm": dict(
                attention_heads=2,
                linear_units=20,
                num_blocks=2,
                normalize_before=False,
                concat_after=True,
            ),
        },
        limits="input_layer embed",
    )
)
