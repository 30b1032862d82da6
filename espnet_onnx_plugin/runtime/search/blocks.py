"""Parts of the searches that go through the encoder's output block by block."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.ctc_prefix import LOGZERO, CTCPrefixScorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.stepper import Ask, Running, Searching
from espnet_onnx_plugin.runtime.search.utterance import (
    Beam,
    BeamSearchConfig,
    Expander,
    end_detected,
    length_bounds,
)

logger = logging.getLogger(__name__)

#: Scores that a CTC prefix score without a way through the frames has a part in.
DEAD = LOGZERO / 1000

#: What the sum of a hypothesis may be off by in float32.
ROUNDING = 1e-2


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
        nbest: int = 0,
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
            nbest: how many results are asked for of the final block, if scores only
                fall; 0: all of them.
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
            elif final and _settled(running, ended, nbest):
                finished = True
            else:
                number += 1
        return BlockSearch(running, number, previous, ended, newest, moved, finished)


def _settled(running: Running, ended: Sequence[Hypothesis], nbest: int) -> bool:
    """Whether no running hypothesis can become one of the best ended ones any more,
    with scores that only fall, those of dead ends apart.
    """
    if not 0 < nbest <= len(ended):
        return False
    least = heapq.nlargest(nbest, (one.score for one in ended))[-1]
    return least > max(DEAD, float(running.beam.score.max()) + ROUNDING)


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
