"""Label-synchronous beam search: ESPnet's ``BatchBeamSearch`` to the token.

The search never knows a network: scorers come from outside. All hypotheses of a batch
of utterances are scored together; each utterance has a
:class:`~espnet_onnx_plugin.runtime.search.utterance.UtteranceSearch` of its own, which
decides which of its hypotheses go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import (
    Beam,
    BeamSearchConfig,
    UtteranceSearch,
)

logger = logging.getLogger(__name__)

#: Rows that matrix products take at once with AVX-512: 12 rows take less time than 10
#: (24.2 against 25.2 ms a step of a language model of 54 M parameters).
ROW_BLOCK = 12

#: Largest growth of the number of rows to fill a block.
MAX_FILLING = 1.2


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
        self._use_ctc = bool(config.weights.get("ctc"))
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
            search = partial(self._search, encoded.select([i]), [primers[i]])
            ended = ended or again(search, self._config.minlenratio)
            results[i] = ranked(self._config, ended)
        return results

    def _search(
        self, encoded: Encoded, primers: Primers, minlenratio: float
    ) -> list[list[Hypothesis]]:
        config = self._config
        utterances = [
            UtteranceSearch(
                config,
                int(frames),
                minlenratio,
                primers[i],
                list(self.scorers),
                self._ctc_scorer(encoded, i) if self._use_ctc else None,
            )
            for i, frames in enumerate(encoded.lengths)
        ]
        states = {
            name: scorer.start(encoded, primers)
            for name, scorer in self._timed_scorers()
        }
        running = utterances
        while not all(utterance.done for utterance in running):
            left = [i for i, utterance in enumerate(running) if not utterance.done]
            # Utterances that are over stay in the batch until half of it is.
            if len(left) <= len(running) // 2:
                running = [running[i] for i in left]
                states = {
                    name: self.scorers[name].select(left, state)
                    for name, state in states.items()
                }
            tokens, parents = together([None if u.done else u.beam for u in running])
            parts = {}
            for name, scorer in self._timed_scorers():
                parts[name], states[name] = scorer.score(tokens, parents, states[name])
            if config.return_hs:
                hidden = self.scorers["decoder"].hidden(states["decoder"])
            for i, utterance in enumerate(running):
                if not utterance.done:
                    count = len(utterance.beam)
                    if config.return_hs:
                        utterance.remember(hidden[i, :count])
                    utterance.advance({k: v[i, :count] for k, v in parts.items()})
        self.seconds["ctc"] += sum(u.ctc_seconds for u in utterances)
        return [utterance.ended for utterance in utterances]

    def _timed_scorers(self) -> Iterator[tuple[str, FullScorer]]:
        """The scorers; what the loop does with each is counted as its time."""
        for name, scorer in self.scorers.items():
            start = time.perf_counter()
            yield name, scorer
            self.seconds[name] += time.perf_counter() - start

    def _ctc_scorer(self, encoded: Encoded, utterance: int) -> CTCPrefixScorer:
        start = time.perf_counter()
        frames = encoded.lengths[utterance]
        log_probs = encoded["ctc_log_probs"][utterance, :frames]
        config = self._config
        scorer = CTCPrefixScorer(
            log_probs, config.blank, config.eos, config.ctc_window_margin
        )
        self.seconds["ctc"] += time.perf_counter() - start
        return scorer


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


def together(beams: Sequence[Beam | None]) -> tuple[np.ndarray, np.ndarray]:
    """Last tokens and parents (utterances, hypotheses) of the running hypotheses.

    Args:
        beams: of each utterance; None of one that is over.

    Rows behind an utterance's last hypothesis repeat its first, which changes neither
    results nor the range of an activation. Those of an utterance that is over extend
    its first hypothesis by any token, for nobody to read.
    """
    running = [(i, beam) for i, beam in enumerate(beams) if beam is not None]
    width = max(len(beam) for _, beam in running)
    full = -(-width // ROW_BLOCK) * ROW_BLOCK
    shape = (len(beams), full if full <= MAX_FILLING * width else width)
    tokens, parents = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, beam in running:
        tokens[i], parents[i] = beam.yseq[0, -1], beam.parents[0]
        tokens[i, : len(beam)] = beam.yseq[:, -1]
        parents[i, : len(beam)] = beam.parents
    return tokens, parents
