"""Label-synchronous searches, run side by side.

The search over one utterance or stream is a generator that yields an :class:`Ask` for
the scores of its running hypotheses and is sent a :class:`Scored`. :class:`Stepper`
asks the scorers for all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.beam import together
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.side_by_side import side_by_side
from espnet_onnx_plugin.runtime.search.utterance import Beam

ResultT = TypeVar("ResultT")


class Batch(NamedTuple):
    """States of the scorers for searches that took a step together.

    Attributes:
        states: by scorer.
        encoded: what each of the searches read; empty where the states are at rest.
    """

    states: Mapping[str, Any]
    encoded: tuple[Encoded, ...] = ()


class Running(NamedTuple):
    """Hypotheses that go on.

    Attributes:
        beam: the hypotheses.
        batch: where the states lie that they were scored with; None before the first
            step.
        place: of the search in the batch.
    """

    beam: Beam
    batch: Batch | None = None
    place: int = 0

    def keep(self, ids: np.ndarray) -> Running:
        """Some of the hypotheses."""
        return self._replace(beam=self.beam.keep(ids))

    def resting(self, scorers: Mapping[str, FullScorer]) -> Running:
        """These hypotheses, with states that are plain data."""
        if self.batch is None or not self.batch.encoded:
            return self
        states = {
            name: scorer.rest(self.batch.states[name], self.place)
            for name, scorer in scorers.items()
        }
        return Running(self.beam, Batch(states))


class Ask(NamedTuple):
    """A search's question for the scores of its running hypotheses.

    Attributes:
        running: at least one hypothesis.
        encoded: the encoder output that they are scored on; the same object as long as
            it is the same output.
        window: how many of the newest tokens the decoder reads, which then forgets the
            hypotheses; 0: all.
    """

    running: Running
    encoded: Encoded
    window: int = 0

    @property
    def reads_on(self) -> bool:
        """Whether the hypotheses were scored on the same encoder output before."""
        batch, place = self.running.batch, self.running.place
        return bool(batch and batch.encoded and batch.encoded[place] is self.encoded)


class Scored(NamedTuple):
    """The answer to an :class:`Ask`.

    Attributes:
        parts: (hypotheses, vocabulary) by scorer.
        batch, place: where the new states lie; see :class:`Running`.
    """

    parts: Mapping[str, np.ndarray]
    batch: Batch
    place: int


Searching = Generator[Ask, Scored, ResultT]


class Stepper:
    """Runs searches side by side, whose steps it takes together.

    Args:
        scorers: full scorers that are asked, by name.
    """

    def __init__(self, scorers: Mapping[str, FullScorer]):
        self._scorers = scorers
        #: Seconds spent, by scorer.
        self.seconds = dict.fromkeys((*scorers, "ctc"), 0.0)

    def run(self, searches: Sequence[Searching[ResultT]]) -> list[ResultT]:
        """Run searches to their ends, and give what they return."""
        return side_by_side(searches, self._answers)

    def _answers(self, asks: Mapping[int, Ask]) -> dict[int, Scored]:
        """Answer questions, by search.

        Those that begin to read other frames wait for the others, so that what the
        scorers make of the frames is made for all of them together.
        """
        going = {i: ask for i, ask in asks.items() if ask.reads_on} or asks
        answers: dict[int, Scored] = {}
        for window in sorted({ask.window for ask in going.values()}):
            ids = [i for i, ask in going.items() if ask.window == window]
            answers.update(zip(ids, self._score([asks[i] for i in ids])))
        return answers

    def _score(self, asks: Sequence[Ask]) -> list[Scored]:
        """Answer questions whose decoders read equally many tokens, 0 or a window."""
        states = self._states(asks)
        beams = [ask.running.beam for ask in asks]
        tokens, parents = together(beams)
        windows = None
        if asks[0].window:
            windows = self._windows(beams, tokens.shape[1], asks[0].window)
            tokens = windows[..., -1]
        parts, new = {}, {}
        for name, scorer in self._timed():
            if windows is not None and name == "decoder":
                parts[name], new[name] = scorer.restart(windows, states[name])
            else:
                parts[name], new[name] = scorer.score(tokens, parents, states[name])
        batch = Batch(new, tuple(ask.encoded for ask in asks))
        return [
            Scored({k: v[i, : len(beam)] for k, v in parts.items()}, batch, i)
            for i, beam in enumerate(beams)
        ]

    @staticmethod
    def _windows(beams: Sequence[Beam], width: int, length: int) -> np.ndarray:
        """The newest tokens (utterances, hypotheses, length) of running hypotheses.

        As in ESPnet, the start symbol takes the place of the first of them.
        """
        windows = np.zeros((len(beams), width, length), np.int64)
        for i, beam in enumerate(beams):
            windows[i] = beam.yseq[:1, -length:]
            windows[i, : len(beam)] = beam.yseq[:, -length:]
            windows[i, :, 0] = beam.yseq[0, 0]
        return windows

    def _states(self, asks: Sequence[Ask]) -> dict[str, Any]:
        """States of the scorers for a step."""
        batch = asks[0].running.batch
        if batch and all(ask.reads_on and ask.running.batch is batch for ask in asks):
            places = [ask.running.place for ask in asks]
            if places == list(range(len(batch.encoded))):
                return dict(batch.states)
            return {
                name: scorer.select(places, batch.states[name])
                for name, scorer in self._timed()
            }
        states = {}
        for name, scorer in self._timed():
            if batch is None and len(asks) == 1:
                states[name] = self._start(scorer, asks[0])
                continue
            resting = [self._resting(name, scorer, ask) for ask in asks]
            projected = scorer.project(Encoded.stack([ask.encoded for ask in asks]))
            states[name] = scorer.resume(resting, projected)
        return states

    def _resting(self, name: str, scorer: FullScorer, ask: Ask) -> Any:
        running = ask.running
        if running.batch is None:
            return scorer.rest(self._start(scorer, ask), 0)
        state = running.batch.states[name]
        return scorer.rest(state, running.place) if running.batch.encoded else state

    @staticmethod
    def _start(scorer: FullScorer, ask: Ask) -> Any:
        return scorer.start(ask.encoded, ask.running.beam.yseq.tolist())

    def _timed(self) -> Iterator[tuple[str, FullScorer]]:
        """The scorers; what the loop does with each is counted as its time."""
        for name, scorer in self._scorers.items():
            start = time.perf_counter()
            yield name, scorer
            self.seconds[name] += time.perf_counter() - start
