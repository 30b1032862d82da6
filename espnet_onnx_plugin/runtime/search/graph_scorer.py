"""Scorers that are step graphs: attention decoders and language models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.buckets import doubled
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.replay import ReplayedSession
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import take, to_numpy
from espnet_onnx_plugin.runtime.search.one_by_one import OneByOne
from espnet_onnx_plugin.runtime.search.protocol import Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Picked

T = TypeVar("T")


@dataclass(frozen=True)
class StepState:
    """State of a step graph. (U, H) are utterances and their hypotheses.

    Attributes:
        memory: tensors by name, rows are utterances.
        states: the graph's states by name.
        rows: (U, H) row of each hypothesis in states that have rows.
        paths: (U, H, tokens) nodes of the states, which have them, that each hypothesis
            sees; -1: none.
        positions: (U, H) number of tokens before the next one.
        hidden: (U * H, dim) what the output layer read, where the graph gives it.
    """

    memory: dict[str, Value]
    states: dict[str, Value]
    rows: np.ndarray
    paths: np.ndarray
    positions: np.ndarray
    hidden: Value | None = None


def keep(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes that some paths have, and the paths where nodes are these alone.

    Args:
        paths: of any shape; -1: no node.
    """
    used = np.zeros(paths.max(initial=-1) + 2, bool)  # the last one is no node
    used[paths] = True
    kept = used[:-1].nonzero()[0]
    places = np.empty(used.size, np.int64)
    places[kept], places[-1] = np.arange(kept.size), -1
    return kept, places[paths]


def earlier(count: int, length: int) -> np.ndarray:
    """Paths (count, length, length) of sequences of rows, one behind the other.

    Each row sees those before it in its sequence. Its own node it always sees.
    """
    rows = np.arange(count * length).reshape(count, 1, length)
    return np.where(np.tri(length, k=-1, dtype=bool), rows, -1)


class GraphScorer(FullScorer):
    """A step graph: an attention decoder or a language model.

    Args:
        step: session of the step graph.
        memory: session of the graph that projects the encoder's output, if the step
            reads it.
    """

    def __init__(self, step: Session, memory: Session | None = None):
        self._step = step
        self._memory = memory
        self.is_tree = "kept" in step.graph.inputs

    def start(self, encoded: Encoded, primers: Primers) -> StepState:
        """The state before the last token of each primer."""
        state = self._begin(self.project(encoded), encoded.utterances)
        # As in ESPnet, a recurrent step sees the last token alone.
        return self._prime(primers, state) if self.is_tree else state

    def project(self, encoded: Encoded) -> dict[str, Value]:
        """The tensors that every step reads of the encoder's outputs."""
        if self._memory is None:
            return {}
        inputs = {name: encoded[name] for name in self._memory.graph.inputs}
        return dict(self._step.settle(self._memory.run(inputs, fetch=())))

    def _begin(self, memory: dict[str, Value], utterances: int) -> StepState:
        """The state before the first token of each utterance's one hypothesis."""
        zeros = np.zeros((utterances, 1), np.int64)
        paths = np.zeros((utterances, 1, 0), np.int64)
        states = self._step.initial_states(memory)
        return StepState(memory, states, zeros, paths, zeros)

    def _prime(self, primers: Primers, state: StepState) -> StepState:
        """Feed the tokens before the last one, which nobody asks the scores of."""
        lengths = np.array([len(primer) - 1 for primer in primers])
        if not lengths.any():
            return state
        _, state = self._feed_sequences([primer[:-1] for primer in primers], state)
        # The hypothesis goes on behind its utterance's last token, if it has one.
        last = np.maximum(lengths - 1, 0)[:, None]
        of_last = (np.arange(len(primers))[:, None], last)
        begun = lengths[:, None] > 0
        return replace(
            state,
            rows=state.rows[of_last],
            paths=np.where(begun[..., None], state.paths[of_last], -1),
            positions=state.positions[of_last] * begun,
            hidden=None,
        )

    def _feed_sequences(
        self, sequences: Sequence[Sequence[int]], state: StepState
    ) -> tuple[Value, StepState]:
        """Feed a sequence of tokens for each utterance, from its start, in one step.

        A token is a row that sees those before it. Behind a shorter sequence stand
        tokens that see themselves alone.
        """
        length = max(map(len, sequences))
        tokens = np.zeros((len(sequences), length), np.int64)
        paths = earlier(*tokens.shape)
        for i, sequence in enumerate(sequences):
            tokens[i, : len(sequence)] = sequence
            paths[i, len(sequence) :] = -1
        positions = np.broadcast_to(np.arange(length), tokens.shape)
        kept = np.zeros(0, np.int64)
        return self._feed(tokens, state.rows, positions, kept, paths, state)

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: StepState
    ) -> tuple[np.ndarray, StepState]:
        """Score all continuations in one step of the graph."""
        scores, state = self.score_resident(tokens, parents, state)
        return to_numpy(scores).reshape(*tokens.shape, -1), state

    def score_resident(
        self, tokens: np.ndarray, parents: np.ndarray, state: StepState
    ) -> tuple[Value, StepState]:
        """Score all continuations in one step of the graph."""
        of_parents = (np.arange(len(tokens))[:, None], parents)
        # Nodes of hypotheses that fell out of the beam are seen by none that is left.
        kept, paths = keep(state.paths[of_parents])
        if self._step.replays:
            # So that few numbers of them come, there are some that nobody sees.
            unseen = doubled(kept.size, tokens.size) - kept.size
            kept = np.concatenate((kept, np.zeros(unseen, np.int64)))
        rows, positions = state.rows[of_parents], state.positions[of_parents]
        return self._feed(tokens, rows, positions, kept, paths, state)

    def _feed(
        self,
        tokens: np.ndarray,
        parents: np.ndarray,
        positions: np.ndarray,
        kept: np.ndarray,
        paths: np.ndarray,
        state: StepState,
    ) -> tuple[Value, StepState]:
        """Run the graph on the inputs that ``export/steps.py`` describes.

        Args:
            paths: (U, H, tokens) nodes that the rows see, of those that are kept and
                then of the rows' new ones; -1: none. Their own they always see.
        """
        feeds = {
            "tokens": tokens,
            "parents": parents,
            "positions": positions,
            **state.memory,
            **state.states,
        }
        if self.is_tree:
            rows, nodes = tokens.size, kept.size + tokens.size
            own = np.arange(kept.size, nodes).reshape(*tokens.shape, 1)
            paths = np.concatenate((paths, own), axis=2)
            seen = np.zeros(rows * nodes, bool)
            firsts = np.arange(0, rows * nodes, nodes).reshape(own.shape)
            seen[firsts + np.where(paths < 0, own, paths)] = True
            visible = seen.reshape(*tokens.shape, nodes)
            feeds.update(kept=kept, visible=visible)
        made = self._step.run(feeds, fetch=())
        new = StepState(
            state.memory,
            {name: made[f"next_{name}"] for name in state.states},
            rows=np.arange(tokens.size).reshape(tokens.shape),
            paths=paths,
            positions=positions + 1,
            hidden=made.get("hidden"),
        )
        return made["log_probs"], new

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores of the token behind each one of a sequence, in one step if it can."""
        if not self.is_tree:
            return super().along(encoded, tokens)
        state = self.start(encoded, [tokens[:1]])
        scores, _ = self._feed_sequences([tokens], state)
        return to_numpy(scores)

    def hidden(self, state: StepState) -> np.ndarray:
        """Input of the output layer in the newest step."""
        if state.hidden is None:
            return super().hidden(state)
        return to_numpy(state.hidden).reshape(*state.rows.shape, -1)

    def join(self, picked: Sequence[Sequence[Picked]]) -> StepState:
        """The state of hypotheses of several states, of steps without a memory."""
        cells = [one for row in picked for one in row]
        distinct = list({id(one.state): one.state for one in cells}.values())
        along, states = ("nodes" if self.is_tree else "rows"), distinct[0].states
        if len(distinct) > 1:
            states = {
                name: np.concatenate(
                    [to_numpy(state.states[name]) for state in distinct],
                    axis=described.axes.index(along),
                )
                for name, described in self._step.graph.states.items()
            }
        shape = len(picked), len(picked[0])
        # A state begins with one row, whatever the number of its hypotheses.
        name, described = next(iter(self._step.graph.states.items()))
        axis = described.axes.index(along)
        counts = [to_numpy(s.states[name]).shape[axis] for s in distinct]
        firsts = dict(zip(map(id, distinct), np.cumsum([0, *counts]).tolist()))
        rows, positions = np.empty((2, len(cells)), np.int64)
        paths = np.full((len(cells), max(one.paths.shape[2] for one in distinct)), -1)
        for i, (state, *of) in enumerate(cells):
            first = 0 if self.is_tree else firsts[id(state)]
            rows[i] = first + state.rows[tuple(of)]
            positions[i] = state.positions[tuple(of)]
            own = state.paths[tuple(of)]
            paths[i, : own.size] = np.where(own < 0, -1, firsts[id(state)] + own)
        return StepState(
            {},
            states,
            rows=rows.reshape(shape),
            paths=paths.reshape(*shape, -1),
            positions=positions.reshape(shape),
        )

    def select(self, utterances: Sequence[int], state: StepState) -> StepState:
        """The state of some of the utterances."""
        ids = list(utterances)
        memory = {k: take(v, ids) for k, v in state.memory.items()}
        return replace(
            state,
            memory=dict(self._step.settle(memory)),
            rows=state.rows[ids],
            paths=state.paths[ids],
            positions=state.positions[ids],
            hidden=None,
        )

    def rest(self, state: StepState, utterance: int) -> StepState:
        """The rows and nodes of one utterance's hypotheses."""
        kept = {}
        kept["nodes"], paths = keep(state.paths[[utterance]])
        kept["rows"], rows = np.unique(state.rows[utterance], return_inverse=True)
        states: dict[str, Value] = {}
        for name, axis, places in self._places(kept):
            states[name] = to_numpy(state.states[name]).take(places, axis)
        return StepState(
            {},
            states,
            rows.reshape(1, -1),
            paths,
            state.positions[[utterance]],
        )

    def resume(
        self, states: Sequence[StepState], projected: dict[str, Value]
    ) -> StepState:
        """The rows and nodes of all hypotheses, with this memory."""
        if len(states) == 1:
            return replace(states[0], memory=projected)
        sizes = {"nodes": [int(one.paths.max(initial=-1)) + 1 for one in states]}
        sizes["rows"] = [int(one.rows.max()) + 1 for one in states]
        together: dict[str, Value] = {}
        for name, axis, _ in self._places(sizes):
            arrays = [to_numpy(one.states[name]) for one in states]
            together[name] = np.concatenate(arrays, axis)
        width = max(one.rows.shape[1] for one in states)
        rows, positions = np.zeros((2, len(states), width), np.int64)
        longest = max(one.paths.shape[2] for one in states)
        paths = np.full((len(states), width, longest), -1)
        row = node = 0
        for i, one in enumerate(states):
            count, length = one.paths.shape[1:]
            rows[i, :count] = one.rows[0] + row
            positions[i, :count] = one.positions[0]
            own = one.paths[0]
            paths[i, :count, :length] = np.where(own < 0, -1, node + own)
            row += sizes["rows"][i]
            node += sizes["nodes"][i]
        return StepState(projected, together, rows, paths, positions)

    def _places(self, of_axes: Mapping[str, T]) -> Iterator[tuple[str, int, T]]:
        """Each state's name, its axis of rows or nodes, and what is told of it."""
        for name, state in self._step.graph.states.items():
            for axis, places in of_axes.items():
                if axis in state.axes:
                    yield name, state.axes.index(axis), places

    def restart(
        self, windows: np.ndarray, state: StepState
    ) -> tuple[np.ndarray, StepState]:
        """Score all continuations of the newest tokens in one step of the graph."""
        utterances, hypotheses, length = windows.shape
        begun = self._begin(state.memory, utterances)
        # A token is a row that sees those before it in its window.
        paths = earlier(utterances * hypotheses, length)
        paths = paths.reshape(utterances, hypotheses * length, length)
        tokens = windows.reshape(utterances, hypotheses * length)
        positions = np.tile(np.arange(length), (utterances, hypotheses))
        kept = np.zeros(0, np.int64)
        scores, state = self._feed(tokens, begun.rows, positions, kept, paths, begun)
        last = slice(length - 1, None, length)
        scores = to_numpy(scores).reshape(*tokens.shape, -1)
        return scores[:, last], replace(
            state,
            rows=state.rows[:, last],
            paths=state.paths[:, last],
            positions=state.positions[:, last],
            hidden=None,
        )


def open_scorer(
    bundle: Bundle, role: str, device: Device, replays: bool = False
) -> FullScorer:
    """The scorer of a step graph, one utterance at a time where a batch is not safe.

    Args:
        bundle: where the graph lies.
        role: its own.
        device: where it runs.
        replays: whether its steps follow one another, each on the states of the one
            before, so that the device may repeat them.
    """
    graphs, of_memory = bundle.manifest.graphs, f"{role}_memory"
    roles = [name for name in (role, of_memory) if name in graphs]
    safe = all(graphs[name].batches for name in roles)
    replays = replays and safe and device.cuda_graphs
    opening = ReplayedSession if replays else Session
    step = opening(bundle, role, device)
    memory = Session(bundle, of_memory, device) if of_memory in graphs else None
    scorer = GraphScorer(step, memory)
    return scorer if safe else OneByOne(scorer)
