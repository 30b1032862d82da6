"""Label-synchronous beam search: ESPnet's ``BatchBeamSearch`` to the token.

The search never knows a network: scorers come from outside. All hypotheses of a batch
of utterances are scored together; each utterance has a
:class:`~espnet_onnx_plugin.runtime.search.utterance.UtteranceSearch` of its own, which
decides which of its hypotheses go on.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.resident import ResidentExpander
from espnet_onnx_plugin.runtime.search.resident_graph import open_replay
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import (
    Beam,
    BeamSearchConfig,
    Expander,
    UtteranceSearch,
)

logger = logging.getLogger(__name__)

#: Rows that matrix products take at once with AVX-512: 12 rows take less time than 10
#: (24.2 against 25.2 ms a step of a language model of 54 M parameters).
ROW_BLOCK = 12

#: Largest growth of the number of rows to fill a block.
MAX_FILLING = 1.2


class ArrayExpander:
    """Extends the hypotheses of a batch of utterances by a token, in arrays.

    Args:
        config: settings of the search.
        encoded: the encoder's outputs.
    """

    def __init__(self, config: BeamSearchConfig, encoded: Encoded):
        start = time.perf_counter()
        self._expanders = [
            Expander(config, self._ctc_scorer(config, encoded, i))
            for i in range(encoded.utterances)
        ]
        self._running = self._expanders
        self._opening = time.perf_counter() - start

    @staticmethod
    def _ctc_scorer(
        config: BeamSearchConfig, encoded: Encoded, utterance: int
    ) -> CTCPrefixScorer | None:
        if not config.weights.get("ctc"):
            return None
        log_probs = encoded.of(utterance, "ctc_log_probs")
        return CTCPrefixScorer(
            log_probs, config.blank, config.eos, config.ctc_window_margin
        )

    @property
    def ctc_seconds(self) -> float:
        """Time spent on CTC prefix scores."""
        return self._opening + sum(one.ctc_seconds for one in self._expanders)

    def start(self, primers: Primers, scorers: Collection[str]) -> list[Beam]:
        """The hypothesis that the search over each utterance begins with."""
        pairs = zip(self._expanders, primers)
        return [expander.start(primer, scorers) for expander, primer in pairs]

    def select(self, utterances: Sequence[int]) -> None:
        """Go on with some of the utterances."""
        self._running = [self._running[i] for i in utterances]

    def extend(
        self,
        beams: Sequence[Beam | None],
        tokens: np.ndarray,
        parts: Mapping[str, np.ndarray],
    ) -> list[Beam | None]:
        """Every hypothesis by every token, the best ones of each utterance, best first.

        Args:
            beams: the running hypotheses of each utterance; None of one that is over.
            tokens: (utterances, hypotheses) their last tokens.
            parts: (utterances, hypotheses, vocabulary) of each full scorer.
        """
        return [
            beam
            and expander.extend(beam, {k: v[i, : len(beam)] for k, v in parts.items()})
            for i, (expander, beam) in enumerate(zip(self._running, beams))
        ]


class BeamSearch:
    """Search over a batch of utterances.

    Args:
        config: settings of the search.
        scorers: full scorers by name, in ESPnet's order; those of weight 0 are not
            asked.
    """

    def __init__(self, config: BeamSearchConfig, scorers: Mapping[str, FullScorer]):
        self._config = config
        #: The scorers that are asked, by name.
        self.scorers = {k: s for k, s in scorers.items() if config.weights.get(k)}
        # A CTC that scores the whole vocabulary asks the host where scores are tiny.
        everything = config.weights.get("ctc") and config.pre_beam_size is None
        repeated = config.cuda_graphs and not everything
        #: Opens graphs of steps that are repeated, of this search alone.
        self._open_replay = functools.cache(open_replay) if repeated else None
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the best token sequences of each utterance.

        Args:
            encoded: the encoder's outputs.
            primers: what the hypotheses of each utterance begin with, start symbol
                included; default: the configuration's.

        Returns:
            For each utterance all hypotheses that ended, best first. Empty if none did,
            which ESPnet answers with an empty list too.
        """
        if primers is None:
            primers = [self._config.primer or (self._config.sos,)] * encoded.utterances
        self.seconds = dict.fromkeys((*self.scorers, "ctc"), 0.0)
        results = self._search(encoded, primers, self._config.minlenratio)
        for i, ended in enumerate(results):
            if not ended:
                search = partial(self._search, encoded.select([i]), [primers[i]])
                ended = again(search, self._config.minlenratio)
            results[i] = ranked(self._config, ended)
        return results

    def _search(
        self, encoded: Encoded, primers: Primers, minlenratio: float
    ) -> list[list[Hypothesis]]:
        config = self._config
        expander = self._expander(encoded)
        resident = isinstance(expander, ResidentExpander)
        first = expander.start(primers, self.scorers)
        utterances = [
            UtteranceSearch(config, int(frames), minlenratio, primer, beam)
            for frames, primer, beam in zip(encoded.lengths, primers, first)
        ]
        states = {
            name: scorer.start(encoded, primers)
            for name, scorer in self._timed_scorers()
        }
        running = utterances
        # Steps that are repeated are of one size.
        width = config.beam_size if config.cuda_graphs else None
        while not all(utterance.done for utterance in running):
            left = [i for i, utterance in enumerate(running) if not utterance.done]
            # Utterances that are over stay in the batch until half of it is.
            if len(left) <= len(running) // 2:
                running = [running[i] for i in left]
                expander.select(left)
                states = {
                    name: self.scorers[name].select(left, state)
                    for name, state in states.items()
                }
            beams = [None if one.done else one.beam for one in running]
            tokens, parents = together(beams, width)
            parts = {}
            for name, scorer in self._timed_scorers():
                score = scorer.score_resident if resident else scorer.score
                parts[name], states[name] = score(tokens, parents, states[name])
            if config.return_hs:
                hidden = self.scorers["decoder"].hidden(states["decoder"])
                for utterance, beam, own in zip(running, beams, hidden):
                    if beam is not None:
                        utterance.remember(own[: len(beam)])
            for utterance, beam in zip(running, expander.extend(beams, tokens, parts)):
                if beam is not None:
                    utterance.advance(beam)
        self.seconds["ctc"] += expander.ctc_seconds
        return [utterance.ended for utterance in utterances]

    def _expander(self, encoded: Encoded) -> ArrayExpander | ResidentExpander:
        """The expander of hypotheses whose scores are to lie there."""
        config = self._config
        # Repeated, a step is one launch, and pays for one utterance too.
        fewest = config.resident_from if self._open_replay is None else 1
        if config.memory is None or encoded.utterances < fewest:
            return ArrayExpander(config, encoded)
        return ResidentExpander(config, encoded, config.memory, self._open_replay)

    def _timed_scorers(self) -> Iterator[tuple[str, FullScorer]]:
        """The scorers; what the loop does with each is counted as its time."""
        for name, scorer in self.scorers.items():
            start = time.perf_counter()
            yield name, scorer
            self.seconds[name] += time.perf_counter() - start


def again(
    search: Callable[[float], list[list[Hypothesis]]], minlenratio: float
) -> list[Hypothesis]:
    """Search an utterance in which nothing ended with smaller ``minlenratio``.

    Args:
        search: searches this utterance with such a ``minlenratio``.
        minlenratio: that of the search before.
    """
    ended: list[Hypothesis] = []
    while not ended:
        logger.warning(
            "there is no N-best results, perform recognition again with smaller "
            "minlenratio."
        )
        if minlenratio < 0.1:
            break
        minlenratio = max(0.0, minlenratio - 0.1)
        [ended] = search(minlenratio)
    return ended


def ranked(config: BeamSearchConfig, ended: list[Hypothesis]) -> list[Hypothesis]:
    """Hypotheses, best first, with the lines that ESPnet logs of the best one."""
    if config.normalize_length:
        ended.sort(key=lambda h: h.score / (len(h.yseq) - 1), reverse=True)
    else:
        ended.sort(key=lambda h: h.score, reverse=True)
    if not ended:
        return ended
    best = ended[0]
    for name, value in best.scores.items():
        weight = config.weights[name]
        logger.info("%6.2f * %3s = %6.2f for %s", value, weight, value * weight, name)
    logger.info("total log probability: %.2f", best.score)
    logger.info("normalized log probability: %.2f", best.score / len(best.yseq))
    logger.info("total number of ended hypotheses: %d", len(ended))
    if config.token_list is not None:
        text = "".join(config.token_list[i] for i in best.yseq[1:-1])
        logger.info("best hypo: %s\n", text)
    return ended


def together(
    beams: Sequence[Beam | None], width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Last tokens and parents (utterances, hypotheses) of the running hypotheses.

    Args:
        beams: of each utterance; None of one that is over.
        width: how many there shall be of each; None: as many as are fastest on a CPU.

    Rows behind an utterance's last hypothesis repeat its first, which changes neither
    results nor the range of an activation. Those of an utterance that is over extend
    its first hypothesis by any token, for nobody to read.
    """
    running = [(i, beam) for i, beam in enumerate(beams) if beam is not None]
    if width is None:
        width = max(len(beam) for _, beam in running)
        full = -(-width // ROW_BLOCK) * ROW_BLOCK
        width = full if full <= MAX_FILLING * width else width
    shape = len(beams), width
    tokens, parents = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, beam in running:
        tokens[i], parents[i] = beam.yseq[0, -1], beam.parents[0]
        tokens[i, : len(beam)] = beam.yseq[:, -1]
        parents[i, : len(beam)] = beam.parents
    return tokens, parents
