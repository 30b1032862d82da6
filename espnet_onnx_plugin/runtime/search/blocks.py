"""Parts of the searches that go through the encoder's output block by block.

The search over one utterance or stream is a generator: it yields an :class:`Ask` for
the scores of its running hypotheses and is sent a :class:`Scored`. :class:`Stepper`
runs several of them side by side and asks the scorers for all of them at once, so that
none of the searches knows of the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.beam import together
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import (
    Beam,
    BeamSearchConfig,
    Expander,
    end_detected,
    length_bounds,
)

logger = logging.getLogger(__name__)

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
        results: dict[int, ResultT] = {}
        answers: dict[int, Scored | None] = dict.fromkeys(range(len(searches)))
        while answers:
            asks: dict[int, Ask] = {}
            for i, answer in answers.items():
                try:
                    asks[i] = searches[i].send(answer)  # type: ignore[arg-type]
                except StopIteration as end:
                    results[i] = end.value
            answers = {}
            for window in sorted({ask.window for ask in asks.values()}):
                ids = [i for i, ask in asks.items() if ask.window == window]
                scored = self._score([asks[i] for i in ids])
                answers.update(zip(ids, scored))
        return [results[i] for i in range(len(searches))]

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
        if batch is not None and len(asks) == len(batch.encoded):
            if all(
                ask.running.batch is batch
                and ask.running.place == place
                and ask.encoded is batch.encoded[place]
                for place, ask in enumerate(asks)
            ):
                return dict(batch.states)
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


@dataclass(frozen=True)
class Steps:
    """How steps take up what ended in them: ESPnet's ``post_process``.

    Attributes:
        config: settings of the search.
        maxlen, minlen: largest and smallest number of tokens.
        primed: tokens by which hypotheses are known to be longer than their steps.
    """

    config: BeamSearchConfig
    maxlen: int
    minlen: int
    primed: int = 0

    @staticmethod
    def of(
        config: BeamSearchConfig, frames: int, minlenratio: float, primer: int = 1
    ) -> Steps:
        """The steps of so many frames, hypotheses beginning with so many tokens.

        Unlike ESPnet's other searches, these take a negative ``maxlenratio`` for one
        token.
        """
        maxlen, minlen = length_bounds(frames, config.maxlenratio, minlenratio)
        if config.maxlenratio < 0:
            maxlen = 1
        if config.max_tokens is not None:  # beyond them ESPnet's decoder breaks down
            maxlen = min(maxlen, config.max_tokens - primer + 1)
        primed = primer - 1 if config.conventions.end_counts_primer else 0
        return Steps(config, maxlen, minlen, primed)

    def is_last(self, number: int) -> bool:
        """Whether a step is the last that the length allows."""
        return number == self.maxlen - 1

    def closed(self, best: Running) -> Running:
        """Hypotheses with one more end symbol, those that ended by themselves too."""
        yseq = best.beam.yseq
        end = np.full((len(yseq), 1), self.config.eos, np.int64)
        beam = replace(best.beam, yseq=np.concatenate((yseq, end), axis=1))
        return best._replace(beam=beam)

    def is_end(self, best: Running) -> np.ndarray:
        """(hypotheses,) whether each has ended."""
        return best.beam.yseq[:, -1] == self.config.eos

    def detects_end(self, ended: list[Hypothesis], number: int) -> bool:
        """Whether no hypothesis can be expected that comes near those that ended."""
        ratio = self.config.maxlenratio
        return ratio == 0.0 and end_detected(ended, number + self.primed)

    def take_up(
        self, number: int, best: Running, ended: list[Hypothesis]
    ) -> tuple[Running, list[Hypothesis]]:
        """Part the hypotheses that a step found.

        Args:
            number: of the step.
            best: the hypotheses.
            ended: those of the steps before.

        Returns:
            Those that go on, and all that ended so far.
        """
        if self.is_last(number):
            logger.info("adding <eos> in the last position in the loop")
            best = self.closed(best)
        is_end = self.is_end(best)
        if number >= self.minlen:
            ended = ended + hypotheses(best, is_end)
        if self.config.conventions.steps_detect_end and self.detects_end(ended, number):
            logger.info("end detected at %d", number)
            is_end = np.ones_like(is_end)
        return best.keep(np.flatnonzero(~is_end)), ended


def hypotheses(best: Running, chosen: np.ndarray) -> list[Hypothesis]:
    """Some of the running hypotheses, as results."""
    return [best.beam.hypothesis(row) for row in np.flatnonzero(chosen).tolist()]


def _overwritten(best: Running) -> list[Hypothesis]:
    """Hypotheses as ESPnet before 202611 shows them after a second end symbol was
    written into the memory that they look at.
    """
    yseq = best.beam.yseq
    count, length = yseq.shape
    memory = np.pad(yseq, ((0, 0), (0, 1)), constant_values=yseq[0, -1]).ravel()
    rows = memory[: count * length].reshape(count, length).tolist()
    return [best.beam.hypothesis(i)._replace(yseq=row) for i, row in enumerate(rows)]


def _repeats(yseq: np.ndarray) -> bool:
    """Whether the last token of any hypothesis is among those before it."""
    return bool((yseq[:, :-1] == yseq[:, -1:]).any())


@dataclass(frozen=True)
class BlockSearch:
    """A label-synchronous search that goes from block to block, as far as it got.

    Attributes:
        running: the hypotheses that go on.
        number: of the next step.
        previous: the hypotheses one step before, to go back to; None: there are none.
        ended: hypotheses that ended for good.
        newest: those that ended in the newest step.
        moved: whether a repeated token ended the newest block, and no step was passed
            since.
        finished: whether the search is over.
    """

    running: Running
    number: int = 0
    previous: Running | None = None
    ended: Sequence[Hypothesis] = ()
    newest: Sequence[Hypothesis] = ()
    moved: bool = False
    finished: bool = False

    def lengthened(self, ctc: CTCPrefixScorer | None, first: Beam) -> BlockSearch:
        """The search with CTC prefix scores of more frames.

        Args:
            ctc: the scorer of these frames.
            first: the hypothesis that the search began with, of these frames.
        """
        beam = self.running.beam
        if self.running.batch is None:
            beam = first
        elif ctc is not None and beam.ctc is not None:
            beam = replace(beam, ctc=ctc.lengthen(beam.ctc))
        return replace(self, running=self.running._replace(beam=beam))

    def rewound(self) -> BlockSearch:
        """The search one step before, where there is one to go back to."""
        previous = self.previous
        if self.number < 2 or previous is None or not len(previous.beam):
            return self
        return replace(self, running=previous, number=self.number - 1, previous=None)

    def resting(self, scorers: Mapping[str, FullScorer]) -> BlockSearch:
        """This search as plain data."""
        running, previous = self.running, self.previous
        if previous is not None:
            previous = previous.resting(scorers)
        return replace(self, running=running.resting(scorers), previous=previous)

    def through(
        self,
        encoded: Encoded,
        final: bool,
        expander: Expander,
        steps: Steps,
        repetitions: bool = True,
        detection: bool = False,
        window: int = 0,
    ) -> Searching[BlockSearch]:
        """Search through a block.

        Any block but the final one ends with the first step that ends a hypothesis.

        Args:
            encoded: all frames up to the block's end.
            final: whether it is the last block.
            expander: extends hypotheses.
            steps: bounds of the steps.
            repetitions: whether a token that a hypothesis has already ends a block too.
            detection: whether the final block tests for the end by what ended before.
            window: see :class:`Ask`.
        """
        running, previous, number = self.running, self.previous, self.number
        ended, newest, moved = list(self.ended), list[Hypothesis](), self.moved
        finished = False
        overwrites = expander.config.conventions.last_end_overwrites
        while number < steps.maxlen and not finished:
            best = yield from _step(running, encoded, expander, window)
            last = steps.is_last(number)
            before = len(ended)
            if last:
                # As in ESPnet, this is done once more below.
                running, ended = steps.take_up(number, best, ended)
                if overwrites:
                    best = steps.closed(best)
            is_end = steps.is_end(best)
            newest = hypotheses(best, is_end)
            repeat = repetitions and not moved and not final
            if repeat and _repeats(best.beam.yseq[~is_end]):
                logger.info("Detected repetition.")
                moved = True
                break
            if final and detection and steps.detects_end(ended, number):
                logger.info("end detected at %d", number)
                finished = True
                break
            if newest and not final:
                logger.info("Detected hyp(s) reaching EOS in this block.")
                break
            moved = False
            previous = running
            if last and overwrites:
                newest = _overwritten(best)
                ended[before:] = newest[: len(ended) - before]
            running, ended = steps.take_up(number, best, ended)
            if final:  # as in ESPnet, those are taken up a second time
                ended += newest
            if not len(running.beam):
                logger.info("no hypothesis. Finish decoding.")
                finished = True
            else:
                number += 1
        return BlockSearch(running, number, previous, ended, newest, moved, finished)


def _step(
    running: Running, encoded: Encoded, expander: Expander, window: int
) -> Searching[Running]:
    """Extend running hypotheses by a token: the best ones, ended ones among them.

    Raises:
        PluginError: if there are none.
    """
    if not len(running.beam):
        raise PluginError(
            "all hypotheses reached the largest length before the last block, where "
            "ESPnet's search over streams ends in an IndexError; set maxlenratio to 0, "
            "or higher"
        )
    own = len(running.beam.yseq[0]) > window > 0
    scored = yield Ask(running, encoded, window if own else 0)
    beam = expander.extend(running.beam, scored.parts)
    return Running(beam, scored.batch, scored.place)
