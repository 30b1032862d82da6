"""``decoder: transformer``."""

from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import make_pad_mask
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
    """

    def __init__(self, attentions: Sequence[torch.nn.Module]):
        super().__init__()
        self.attentions = torch.nn.ModuleList(attentions)

    @property
    def tensors(self) -> Dict[str, Tensor]:
        """The results by name, in order."""
        bias = Tensor("float32", ("utterances", 1, 1, "frames"))
        tensors = {"memory_bias": bias}
        for i, attention in enumerate(self.attentions):
            axes = ("utterances", attention.h, "frames", attention.d_k)
            tensors[f"memory_k_{i}"] = Tensor("float32", axes)
            tensors[f"memory_v_{i}"] = Tensor("float32", axes)
        return tensors

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
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


def decoder_layer(
    layer: torch.nn.Module, x: torch.Tensor, self_attention: Part, cross: Part
) -> torch.Tensor:
    """ESPnet's ``DecoderLayer`` around the two attentions that it is given."""
    concat = ("concat_linear1", "concat_linear2") if layer.concat_after else ("", "")
    x = _residual(layer, layer.norm1, x, self_attention, concat[0])
    x = _residual(layer, layer.norm2, x, cross, concat[1])
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

    def past_states(self) -> Dict[str, State]:
        """The states of the past, as many for each layer."""
        return cache_states([layer.self_attn for layer in self.layers])

    def past_inputs(self, inputs: Sequence[torch.Tensor]) -> Sequence[Any]:
        """What every layer's :meth:`mix` needs of the inputs behind the positions."""
        kept, visible = inputs
        return kept, tree_bias(visible)

    def mix(
        self,
        attention: torch.nn.Module,
        inputs: Sequence[Any],
        past: Sequence[torch.Tensor],
        states: List[torch.Tensor],
        x: torch.Tensor,
    ) -> torch.Tensor:
        """Self-attention of the newest tokens (rows, size); appends the new states."""
        kept, bias = inputs
        y, *new = self_attention_step(attention, x, kept, bias, *past)
        states += new
        return y

    def forward(self, *tensors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """See :class:`StepModule`."""
        inputs, (memory_bias, *memory), past = self.split(tensors)
        tokens, positions, *rest = inputs
        embedding, pos_enc = self.reference.embed
        x = encode_position(pos_enc, embedding(tokens.flatten()), positions.flatten())
        past_inputs = self.past_inputs(rest)
        states: List[torch.Tensor] = []
        each = len(past) // len(self.layers)

        def cross(attention, k, v, x):
            x = x.view(*tokens.shape, -1)
            return cross_attention(attention, x, k, v, memory_bias).flatten(0, 1)

        for i, layer in enumerate(self.layers):
            of_layer = past[each * i : each * (i + 1)]
            x = decoder_layer(
                layer,
                x,
                partial(self.mix, layer.self_attn, past_inputs, of_layer, states),
                partial(cross, layer.src_attn, *memory[2 * i : 2 * i + 2]),
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
