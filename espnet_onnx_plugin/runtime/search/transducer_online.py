"""Search of stand-alone transducers over streams, which goes on from chunk to chunk."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.values import pad
from espnet_onnx_plugin.runtime.search.protocol import Found, Piece, Scorer
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Picked
from espnet_onnx_plugin.runtime.search.transducer import hypotheses
from espnet_onnx_plugin.runtime.search.transducer_hypotheses import Partial, Prefix
from espnet_onnx_plugin.runtime.search.transducer_networks import States
from espnet_onnx_plugin.runtime.search.transducer_stand_alone import StandAloneSearch


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """Hypotheses behind the newest chunk, in ESPnet's order, as plain data.

    Label sequences have numbers. What the networks gave is kept of those that a search
    goes on from alone: a label costs 8 bytes, and as many for the language model.

    Attributes:
        scores: of the hypotheses; none before the first chunk.
        labels, lm: numbers of the sequences that they are and that the language model
            has read; None without one.
        before: (sequences,) int32 numbers of those without the last label; -1: none.
        last: (sequences,) int32 last labels.
        outputs: of a network behind sequences, by number.
        states: of the prediction network behind sequences, each (1, ...), by number.
        lm_state: of the language model, at rest.
        lm_read: numbers of the sequences that it has a hypothesis for.
    """

    scores: Sequence[float]
    labels: Sequence[int]
    lm: Sequence[int | None]
    before: np.ndarray
    last: np.ndarray
    outputs: Mapping[int, np.ndarray]
    states: Mapping[int, States]
    lm_state: Any
    lm_read: Sequence[int]

    @classmethod
    def resting(cls, partials: Sequence[Partial], lm: FullScorer | None) -> Hypotheses:
        """The hypotheses of a search, whose language model is this one."""
        tails = [p for one in partials for p in (one.labels, one.lm) if p is not None]
        numbers: dict[Prefix, int] = {}
        for tail in tails:
            for prefix in reversed([*_beginnings(tail, numbers)]):
                numbers[prefix] = len(numbers)
        outputs, states, read = {}, {}, {}
        for prefix in dict.fromkeys(p for tail in tails for p in _gone_on_from(tail)):
            number = numbers[prefix]
            if prefix.output is not None:
                outputs[number] = prefix.output.copy()
            if isinstance(prefix.state, Picked):
                read[number] = prefix.state
            elif prefix.state is not None:
                arrays, row = prefix.state
                states[number] = {name: a[[row]] for name, a in arrays.items()}
        lm_state = None
        if lm is not None and read:
            lm_state = lm.rest(lm.join([[*read.values()]]), 0)
        return cls(
            scores=[one.score for one in partials],
            labels=[numbers[one.labels] for one in partials],
            lm=[None if one.lm is None else numbers[one.lm] for one in partials],
            before=np.array(
                [-1 if p.before is None else numbers[p.before] for p in numbers],
                np.int32,
            ),
            last=np.array([prefix.label for prefix in numbers], np.int32),
            outputs=outputs,
            states=states,
            lm_state=lm_state,
            lm_read=list(read),
        )

    def partials(self, lm_state: Any = None) -> list[Partial]:
        """The hypotheses for a search, with labels of their own.

        Args:
            lm_state: of the language model, resumed; None: nobody asks it.
        """
        prefixes: list[Prefix] = []
        for before, label in zip(self.before.tolist(), self.last.tolist()):
            known = before >= 0
            prefixes.append(
                prefixes[before].then(label) if known else Prefix(None, label)
            )
        for number, output in self.outputs.items():
            prefixes[number].output = output
        for number, states in self.states.items():
            prefixes[number].state = states, 0
        for place, number in enumerate(self.lm_read):
            prefixes[number].state = Picked(lm_state, 0, place)
        return [
            Partial(score, prefixes[labels], None if lm is None else prefixes[lm])
            for score, labels, lm in zip(self.scores, self.labels, self.lm)
        ]


def _beginnings(tail: Prefix, known: Container[Prefix]) -> Iterator[Prefix]:
    """A label sequence and what it begins with, down to what is known."""
    prefix: Prefix | None = tail
    while prefix is not None and prefix not in known:
        yield prefix
        prefix = prefix.before


def _gone_on_from(tail: Prefix) -> Iterator[Prefix]:
    """Label sequences from whose states a search goes on from a hypothesis."""
    before = tail.before
    # Of no labels, what the language model has read is yet to be chosen.
    if before is not None and (tail.output is None or before.before is None):
        yield before
    yield tail


class OnlineTransducerSearch:
    """Search over streams.

    Args:
        search: over whole utterances.

    Raises:
        PluginError: if it has to know the number of frames.
    """

    def __init__(self, search: StandAloneSearch):
        if search.config.search_type == "alsd":
            raise PluginError(
                "search_type alsd is not for streaming: it has to know the number of "
                "frames, and ESPnet's begins anew with each chunk; use default, tsd or "
                "maes"
            )
        self._search = search

    @property
    def scorers(self) -> Mapping[str, Scorer]:
        """The scorers that are asked, by name."""
        return self._search.scorers

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that the newest call spent, by part."""
        return self._search.seconds

    def open(self) -> Hypotheses:
        """The state of a stream before its first piece."""
        return Hypotheses.resting([], None)

    def running(self, state: Hypotheses) -> list[Sequence[int]]:
        """Labels of the hypotheses, best first."""
        best = sorted(state.partials(), key=lambda p: p.score, reverse=True)
        return [partial.labels.labels() for partial in best]

    def feed(self, pieces: Sequence[Piece[Hypotheses]]) -> list[Found[Hypotheses]]:
        """Search on through several streams.

        As in ESPnet a piece that is not final gives all hypotheses, as the search left
        them.
        """
        search = self._search
        search.seconds = {"decoder": 0.0, "lm": 0.0}
        behind: list[Sequence[Partial] | None] = [None] * len(pieces)
        asked = [i for i, piece in enumerate(pieces) if len(piece.encoder_out)]
        if asked:
            frames = [pieces[i].encoder_out for i in asked]
            lengths = np.array([len(own) for own in frames])
            encoded = Encoded(encoder_out=pad(frames), encoder_out_lens=lengths)
            starts = search.starts(encoded)
            begun = [
                self._resumed(pieces[i].state, encoded.select([place])) or [start]
                for place, (i, start) in enumerate(zip(asked, starts))
            ]
            for i, found in zip(asked, search.through(encoded, begun)):
                behind[i] = found
        return [self._found(piece, partials) for piece, partials in zip(pieces, behind)]

    def _resumed(self, state: Hypotheses, encoded: Encoded) -> list[Partial]:
        """Hypotheses that go on through these frames of their stream."""
        lm, lm_state = self._search.lm, None
        if lm is not None and state.lm_read:
            lm_state = lm.resume([state.lm_state], lm.project(encoded))
        return state.partials(lm_state)

    def _found(
        self, piece: Piece[Hypotheses], partials: Sequence[Partial] | None
    ) -> Found[Hypotheses]:
        """The outcome of a piece, behind which are these; None: it had no frames."""
        state = piece.state
        if partials is None:
            partials = state.partials()
        elif not piece.is_final:
            state = Hypotheses.resting(partials, self._search.lm)
        if piece.is_final:
            return Found(self.open(), hypotheses(self._search.result(partials)))
        return Found(state, hypotheses(partials))
