"""Decoders and language models as step graphs: one token for every hypothesis.

A step takes the last token of each hypothesis and the states of the previous step, and
gives the scores of the next token and the states. Tokens come as (utterances,
hypotheses), so that all hypotheses of an utterance share its memory (the projected
encoder output), which is computed once per utterance. A *row* is one hypothesis, in
that order.

Self-attention keeps its keys and values as *nodes* of a tree: a node is one token of
one row, and hypotheses that share a past share its nodes. A step is told which nodes to
keep and which of them and of its own each row sees, so that nothing is stored, moved or
attended to once for every hypothesis. The tokens of a sequence may be the rows of one
step, each seeing those before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.patches import sinusoids
from espnet_onnx_plugin.runtime.core.encoder import LENS

_ROWS = ("utterances", "hypotheses")

#: What a recurrent step is fed: the last tokens, and which row of the previous step
#: each hypothesis extends.
RECURRENT_INPUTS = {"tokens": Tensor("int64", _ROWS), "parents": Tensor("int64", _ROWS)}

#: What a step with self-attention is fed: the last tokens and their positions, which
#: nodes of the previous step stay, and which nodes each row sees, of those that stay
#: and then of the rows' new ones.
TREE_INPUTS = {
    "tokens": Tensor("int64", _ROWS),
    "positions": Tensor("int64", _ROWS),
    "kept": Tensor("int64", ("kept",)),
    "visible": Tensor("bool", (*_ROWS, "seen")),
}


class DecoderModule(torch.nn.Module):
    """A decoder or language model as a graph, and as another one for its memory.

    Attributes:
        reference: ESPnet's own module, which the graph is compared with.
        memory: a module from what :attr:`reads` names, each (utterances, frames, dim)
            followed by its lengths, to the tensors that every call reads, or None.
        reads: sequences that the memory is made from, in the order of ESPnet's
            ``batch_score``, and what their axis of frames is called.
        memory_tensors: those tensors by name, in the order of ``memory``'s results.
        max_tokens: how many tokens it has positions for; None: any number.
        together: whether ESPnet's module can score hypotheses together only.
    """

    together = False

    def __init__(self, reference: torch.nn.Module):
        super().__init__()
        self.reference = reference
        self.memory: torch.nn.Module | None = None
        self.reads: Mapping[str, str] = {"encoder_out": "frames"}
        self.memory_tensors: Mapping[str, Tensor] = {}
        self.max_tokens: int | None = None

    def graph_spec(self, vocabulary: int) -> GraphSpec:
        """The graph for so many tokens."""
        raise NotImplementedError

    def memory_spec(self, dim: int) -> GraphSpec:
        """The graph that projects an encoder output of this size."""
        inputs = {}
        for name, frames in self.reads.items():
            inputs[name] = Tensor("float32", ("utterances", frames, dim))
            inputs[f"{name}{LENS}"] = Tensor("int64", ("utterances",))
        return GraphSpec(self.memory, inputs, self.memory_tensors)


class StepModule(DecoderModule):
    """A decoder or language model that scores one token after the other.

    Attributes:
        inputs: :data:`RECURRENT_INPUTS` or :data:`TREE_INPUTS`.
        states: the recurrent states by name. Axis ``rows`` counts the rows of the
            previous step, axis ``nodes`` its nodes.
        hidden_size: size of what the output layer reads, where the step can return it.
        returns_hidden: whether it does.
    """

    hidden_size: int | None = None
    returns_hidden = False

    def __init__(self, reference: torch.nn.Module, inputs: Mapping[str, Tensor]):
        super().__init__(reference)
        self.inputs = inputs
        self.states: Mapping[str, State] = {}

    def graph_spec(self, vocabulary: int) -> GraphSpec:
        """The graph of one step, for so many tokens."""
        inputs = {**self.inputs, **self.memory_tensors}
        outputs = {"log_probs": Tensor("float32", ("rows", vocabulary))}
        if self.returns_hidden:
            outputs["hidden"] = Tensor("float32", ("rows", self.hidden_size))
        return GraphSpec(self, inputs, outputs, self.states)

    def split(self, tensors: Sequence[torch.Tensor]) -> list[Sequence[torch.Tensor]]:
        """A step's tensors as those of :attr:`inputs`, of the memory, and states."""
        first = len(self.inputs)
        second = first + len(self.memory_tensors)
        return [tensors[:first], tensors[first:second], tensors[second:]]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token.

        Args:
            tensors: what :attr:`inputs` names, the memory's tensors, the states.

        Returns:
            Log probabilities (rows, vocabulary), what the output layer read (rows,
            hidden_size) if :attr:`returns_hidden`, then the new states: of the rows, or
            of the kept nodes followed by one node for each row.
        """
        raise NotImplementedError

    def returning_hidden(self) -> StepModule:
        """Return also what the output layer reads, from now on.

        Raises:
            PluginError: if ESPnet's module cannot.
        """
        if self.hidden_size is None:
            name = type(self.reference).__name__
            raise PluginError(
                f"{name} cannot be the ASR sub-decoder of a multi-decoder model: as in "
                "ESPnet, it does not return its hidden states"
            )
        self.returns_hidden = True
        return self


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
    bias: torch.Tensor | None,
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


def tree_bias(visible: torch.Tensor) -> torch.Tensor:
    """A bias for the scores of self-attention, by which a row sees its own past only.

    Args:
        visible: (utterances, hypotheses, kept + rows) bool.

    Returns:
        (rows, kept + rows).
    """
    return masked(visible.flatten(0, 1))


def node_positions(
    past: torch.Tensor, kept: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Positions (kept + rows,) of the kept nodes, then of the new ones.

    Args:
        past: (nodes,), what the step before gave.
        kept: (kept,), nodes of the past that stay.
        positions: (utterances, hypotheses) of the newest tokens.
    """
    return torch.cat((past.index_select(0, kept), positions.flatten()))


def self_attention_step(
    attention: torch.nn.Module,
    x: torch.Tensor,
    kept: torch.Tensor,
    bias: torch.Tensor,
    past_k: torch.Tensor,
    past_v: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One query of each row against the nodes that it sees.

    Args:
        x: (rows, size), the layer's input for the newest token.
        kept: (kept,), nodes of the past that stay.
        bias: ([h,] rows, kept + rows), see :func:`tree_bias`.
        past_k, past_v: (h, nodes, d).

    Returns:
        (rows, size), and keys and values (h, kept + rows, d).
    """
    q = normed(attention, "q_norm", split_heads(attention, attention.linear_q(x)))
    k = normed(attention, "k_norm", split_heads(attention, attention.linear_k(x)))
    v = split_heads(attention, attention.linear_v(x))
    k = torch.cat((past_k.index_select(1, kept), k), dim=1)
    v = torch.cat((past_v.index_select(1, kept), v), dim=1)
    return attend(attention, q, k, v, bias), k, v


def encode_position(
    pos_enc: torch.nn.Module, x: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Add the encoding of a position (rows,) to each row of (rows, size).

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
    table = sinusoids(positions, pos_enc.d_model)[0]
    if kind == "ScaledPositionalEncoding":
        return x + pos_enc.alpha * table
    return x * pos_enc.xscale + table


def cache_states(attentions: list[torch.nn.Module]) -> dict[str, State]:
    """Key and value states for the self-attention of each layer."""
    states = {}
    for i, attention in enumerate(attentions):
        for kind in ("k", "v"):
            axes = (attention.h, "nodes", attention.d_k)
            states[f"self_{kind}_{i}"] = State("float32", axes)
    return states
