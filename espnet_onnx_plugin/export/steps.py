"""Decoders and language models as step graphs: one token for every hypothesis.

A step takes the last token of each hypothesis and the states of the previous step, and
gives the scores of the next token and the states. Hypotheses are reordered inside the
graph: ``parents`` says which row of the previous step each hypothesis extends.

Tokens come as (utterances, hypotheses) so that all hypotheses of an utterance share
its memory (the projected encoder output), which is computed once per utterance.
"""

import math
from typing import Dict, List, Mapping, Optional, Tuple

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import sinusoids


class StepModule(torch.nn.Module):
    """What the exporter needs to know of a decoder or language model.

    Attributes:
        reference: ESPnet's own module, which the graph is compared with.
        states: the recurrent states by name. Axis ``rows`` counts hypotheses of all
            utterances, axis ``past`` the tokens so far.
        memory: a module from ``(encoder_out (utterances, frames, dim), lengths)`` to
            the tensors that every step reads, or None.
        memory_tensors: those tensors by name, in the order of ``memory``'s results.
    """

    def __init__(self, reference: torch.nn.Module):
        super().__init__()
        self.reference = reference
        self.states: Mapping[str, State] = {}
        self.memory: Optional[torch.nn.Module] = None
        self.memory_tensors: Mapping[str, Tensor] = {}

    def forward(
        self, tokens: torch.Tensor, parents: torch.Tensor, *tensors: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        """Score the next token.

        Args:
            tokens: (utterances, hypotheses) int64, the last token of each.
            parents: (utterances, hypotheses) int64, rows of the previous step.
            tensors: the memory's tensors, then the states.

        Returns:
            Log probabilities (utterances * hypotheses, vocabulary), then the new
            states.
        """
        raise NotImplementedError


def masked(valid: torch.Tensor) -> torch.Tensor:
    """A bias for attention scores: 0 where valid, the lowest float elsewhere."""
    lowest = torch.finfo(torch.float32).min
    return torch.where(valid, 0.0, lowest)


def split_heads(attention: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(..., time, h * d) -> (..., h, time, d)."""
    x = x.unflatten(-1, (attention.h, attention.d_k))
    return x.transpose(-3, -2)


def attend(
    attention: torch.nn.Module,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: Optional[torch.Tensor],
) -> torch.Tensor:
    """Scaled dot-product attention over heads, ESPnet's ``MultiHeadedAttention``.

    Args:
        q: (..., h, time1, d).
        k, v: (..., h, time2, d).
        bias: added to the scores, broadcast to (..., h, time1, time2).

    Returns:
        (..., time1, h * d) after the output projection.
    """
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(attention.d_k)
    if bias is not None:
        scores = scores + bias
    context = torch.matmul(torch.softmax(scores, dim=-1), v)
    return attention.linear_out(context.transpose(-3, -2).flatten(-2))


def normed(attention: torch.nn.Module, which: str, x: torch.Tensor) -> torch.Tensor:
    """Apply the layer norm of queries or keys where the model has one (qk_norm)."""
    norm = getattr(attention, which, None)
    return x if norm is None else norm(x)


def self_attention_step(
    attention: torch.nn.Module,
    x: torch.Tensor,
    parents: torch.Tensor,
    past_k: torch.Tensor,
    past_v: torch.Tensor,
    bias: Optional[torch.Tensor] = None,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One query against all keys so far.

    Args:
        x: (rows, size), the layer's input for the newest token.
        parents: (rows,).
        past_k, past_v: (previous rows, h, past, d).
        bias: (rows, 1, 1, past + 1) or None.

    Returns:
        (rows, size), and keys and values (rows, h, past + 1, d).
    """
    x = x[:, None]
    q = normed(attention, "q_norm", split_heads(attention, attention.linear_q(x)))
    k = normed(attention, "k_norm", split_heads(attention, attention.linear_k(x)))
    v = split_heads(attention, attention.linear_v(x))
    k = torch.cat((past_k.index_select(0, parents), k), dim=2)
    v = torch.cat((past_v.index_select(0, parents), v), dim=2)
    return attend(attention, q, k, v, bias)[:, 0], k, v


def encode_position(
    pos_enc: torch.nn.Module, x: torch.Tensor, position: int
) -> torch.Tensor:
    """Add the encoding of one position to (rows, size).

    Raises:
        PluginError: for a positional encoding other than absolute, scaled and none.
    """
    kind = type(pos_enc).__name__
    if isinstance(pos_enc, torch.nn.Sequential) and len(pos_enc) == 0:
        return x
    if kind not in ("PositionalEncoding", "ScaledPositionalEncoding"):
        raise PluginError(
            f"positional encoding {kind} is not supported in a decoder or LM; "
            "supported: PositionalEncoding, ScaledPositionalEncoding, none"
        )
    table = sinusoids(torch.arange(position, position + 1), pos_enc.d_model)[0]
    if kind == "ScaledPositionalEncoding":
        return x + pos_enc.alpha * table
    return x * pos_enc.xscale + table


def cache_states(attentions: List[torch.nn.Module]) -> Dict[str, State]:
    """Key and value states for the self-attention of each layer."""
    states = {}
    for i, attention in enumerate(attentions):
        for kind in ("k", "v"):
            axes = ("rows", attention.h, "past", attention.d_k)
            states[f"self_{kind}_{i}"] = State("float32", axes)
    return states
