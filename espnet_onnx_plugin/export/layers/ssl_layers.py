"""Layers of fairseq's kind of models, as they are traced.

fairseq's wav2vec 2.0 and HuBERT, s3prl's copies of them, and Microsoft's WavLM.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from espnet_onnx_plugin.export.patches import replaced


@contextlib.contextmanager
def traceable_fairseq(encoder: torch.nn.Module) -> Iterator[None]:
    """Patch a ``TransformerEncoder`` of this kind, for the time of the block."""
    functions = {
        # Frames added for the sake of fp16 are masked and taken away again.
        "pad_to_multiple": lambda x, *args, **kwargs: (x, 0),
        "index_put": lambda x, mask, value: x.masked_fill(mask[..., None], value),
    }
    module = sys.modules[type(encoder).__module__]
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            if hasattr(module, name):
                stack.enter_context(replaced(module, name, function))
        for cls in {type(layer.self_attn) for layer in encoder.layers}:
            stack.enter_context(replaced(cls, "forward", _attention))
        yield


def fairseq_hidden_states(
    model: torch.nn.Module, speech: torch.Tensor
) -> list[torch.Tensor]:
    """Inputs of the layers of a model of this kind, and the output of the last.

    Args:
        model: has ``extract_features`` and an ``encoder`` with ``layers``.
        speech: (B, samples), none of them padding.

    Returns:
        Tensors (B, frames, dim), one more than there are layers.
    """
    states: list[torch.Tensor] = []

    def take_input(layer, args, kwargs):  # (time, B, dim)
        states.append((args[0] if args else kwargs["x"]).transpose(0, 1))

    def take_output(encoder, args, output):  # (B, time, dim), ...
        states.append(output[0])

    handles = [
        layer.register_forward_pre_hook(take_input, with_kwargs=True)
        for layer in model.encoder.layers
    ]
    handles.append(model.encoder.register_forward_hook(take_output))
    try:
        with traceable_fairseq(model.encoder):
            model.extract_features(speech, None)
    finally:
        for handle in handles:
            handle.remove()
    return states


def weighted_sum(weights: torch.Tensor, states: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of layers that a featurizer makes, weighted by a softmax of its weights.

    One sum after the other needs no tensor of all layers.

    Args:
        weights: (layers,).
        states: of each layer, (B, frames, dim).
    """
    shares = torch.softmax(weights, dim=-1)
    return sum(share * state for share, state in zip(shares, states))


def attend(
    layer: torch.nn.Module,
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    padding: torch.Tensor | None = None,
) -> torch.Tensor:
    """Self-attention of a layer of fairseq's or torchaudio's.

    Args:
        layer: has projections, ``num_heads``, ``head_dim`` and ``scaling``.
        x: (B, time, dim).
        bias: (B or 1, heads, time, time), added to the scaled scores.
        padding: (B, 1, 1, time), True at padding.
    """
    batch, time, dim = x.shape
    q, k, v = (
        project(x).view(batch, time, layer.num_heads, layer.head_dim).transpose(1, 2)
        for project in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    scores = torch.matmul(q, k.transpose(2, 3)) * layer.scaling
    if bias is not None:
        scores = scores + bias
    if padding is not None:
        scores = scores.masked_fill(padding, torch.finfo(torch.float32).min)
    context = torch.matmul(torch.softmax(scores, dim=-1), v)
    return layer.out_proj(context.transpose(1, 2).reshape(batch, time, dim))


def _attention(
    self: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[torch.Tensor | None, ...]:
    """``MultiheadAttention`` of fairseq and WavLM, of a tensor with itself.

    The latter's biases of positions are shared by all layers and gated by each one's
    input (https://arxiv.org/abs/2110.13900, 3.1).

    Args:
        query: (time, B, dim); key and value are the same.
        key_padding_mask: (B, time), True at padding.
        position_bias: (1, heads, time, time), if an earlier layer made it.

    Returns:
        (time, B, dim), None, and in WavLM the biases of positions.
    """
    x = query.transpose(0, 1)
    if getattr(self, "has_relative_attention_bias", False) and position_bias is None:
        position_bias = _position_bias(self, x.size(1))
    bias = position_bias
    if bias is not None and self.gru_rel_pos:
        bias = bias * _gate(self, x)
    padding = None if key_padding_mask is None else key_padding_mask[:, None, None, :]
    out = attend(self, x, bias, padding).transpose(0, 1)
    return (out, None, position_bias) if hasattr(self, "gru_rel_pos") else (out, None)


def _gate(attention: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(B, heads, time, 1): how much the biases of positions count for a query."""
    batch, time, _ = x.shape
    heads = x.view(batch, time, attention.num_heads, attention.head_dim)
    gates = attention.grep_linear(heads.transpose(1, 2))
    gates = gates.view(batch, attention.num_heads, time, 2, 4).sum(-1).sigmoid()
    first, second = gates.chunk(2, dim=-1)
    return first * (second * attention.grep_a - 1.0) + 2.0


def _position_bias(attention: torch.nn.Module, time: Any) -> torch.Tensor:
    """(1, heads, time, time): a learned number for each distance, up to the farthest.

    Distances beyond ``max_distance`` share a bucket, so that a table of the others is
    all that the logarithms are needed for.
    """
    farthest = attention.max_distance
    distances = torch.arange(-farthest, farthest + 1)
    buckets = attention._relative_positions_bucket(distances, bidirectional=True)
    table = attention.relative_attention_bias(buckets).transpose(0, 1)
    positions = torch.arange(time)
    index = (positions[None] - positions[:, None]).clamp(-farthest, farthest) + farthest
    return table.index_select(1, index.flatten()).view(1, -1, time, time)
