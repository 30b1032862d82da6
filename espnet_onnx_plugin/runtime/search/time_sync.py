"""Time-synchronous CTC/attention search: ESPnet's ``BeamSearchTimeSync``.

Hypotheses grow along the frames (Yan et al., https://arxiv.org/abs/2210.05200; CTC
prefix search, https://arxiv.org/abs/1408.2873). Decoder and language model are asked
for a prefix once, all new prefixes of a frame and length together.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import (
    PRE_BEAM_RATIO,
    BeamSearchConfig,
)

logger = logging.getLogger(__name__)

Prefix = tuple[int, ...]

#: Log forward variables of a prefix, non-blank and blank.
Forward = tuple[float, float]


@dataclass(frozen=True)
class _Known:
    """A prefix that a scorer has seen."""

    log_probs: np.ndarray  # (vocabulary,) of the next token
    total: float  # of the prefix's own tokens
    state: Any  # of the batch it was scored in
    row: int  # its row there


class Scores(Protocol):
    """Scores of prefixes under one full scorer."""

    def prepare(self, prefixes: list[Prefix]) -> None:
        """Score every prefix that is not known yet; its parent has to be."""

    def __getitem__(self, prefix: Prefix) -> float:
        """Log probability of a prefix; :meth:`prepare` has seen its parent."""


class PrefixScores:
    """Scores of prefixes under one full scorer, remembered for an utterance."""

    def __init__(self, scorer: FullScorer, encoded: Encoded, sos: int):
        self._scorer = scorer
        #: Time spent in the scorer.
        self.seconds = 0.0
        begin = time.perf_counter()
        state = scorer.start(encoded, [[sos]])
        self.seconds += time.perf_counter() - begin
        rows, state = self._score(np.array([sos]), np.zeros(1, np.int64), state)
        self._known: dict[Prefix, _Known] = {(sos,): _Known(rows[0], 0.0, state, 0)}

    def _score(
        self, tokens: np.ndarray, parents: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any]:
        begin = time.perf_counter()
        rows, state = self._scorer.score(tokens[None], parents[None], state)
        self.seconds += time.perf_counter() - begin
        return rows[0], state

    def prepare(self, prefixes: list[Prefix]) -> None:
        """Score every prefix that is not known yet; its parent has to be."""
        batches = defaultdict(list)
        for prefix in dict.fromkeys(prefixes):
            if prefix not in self._known:
                # Rows of one batch have one state: that of the parent's batch.
                batches[id(self._known[prefix[:-1]].state)].append(prefix)
        for batch in batches.values():
            parents = [self._known[prefix[:-1]] for prefix in batch]
            tokens = np.array([prefix[-1] for prefix in batch])
            rows = np.array([parent.row for parent in parents])
            log_probs, state = self._score(tokens, rows, parents[0].state)
            for i, (prefix, parent) in enumerate(zip(batch, parents)):
                total = parent.total + float(parent.log_probs[prefix[-1]])
                self._known[prefix] = _Known(log_probs[i], total, state, i)

    def __getitem__(self, prefix: Prefix) -> float:
        """Log probability of a prefix; :meth:`prepare` has seen its parent."""
        parent = self._known[prefix[:-1]]
        return parent.total + float(parent.log_probs[prefix[-1]])


def log_best(config: BeamSearchConfig, best: Hypothesis) -> None:
    """The lines that ESPnet logs of a result."""
    logger.info("output length: %d", len(best.yseq))
    logger.info("total log probability: %.2f", best.score)
    if config.token_list is not None:
        text = "".join(config.token_list[i] for i in best.yseq)
        logger.info("best hypo: %s", text)


def candidates(frame: np.ndarray, beam_size: int) -> list[int]:
    """Tokens that are probable enough in a frame (vocabulary,) to extend a prefix."""
    threshold = np.sort(frame)[-int(PRE_BEAM_RATIO * beam_size) :][0]
    return np.flatnonzero(frame >= threshold).tolist() or [int(np.argmax(frame))]


def advance(
    frame: np.ndarray,
    tokens: Iterable[int],
    prefixes: Sequence[Prefix],
    forward: Mapping[Prefix, Forward],
    blank: int,
    blank_bonus: float = 0.0,
) -> tuple[dict[Prefix, Forward], list[Prefix]]:
    """Forward variables of the prefixes that one more frame can make.

    Args:
        frame: (vocabulary,) log probabilities of the CTC.
        tokens: those that extend a prefix, blank among them.
        prefixes: the running ones.
        forward: variables of the prefixes that the frame before made.
        blank: id of the blank.
        blank_bonus: what a frame without a new token scores besides.

    Returns:
        The variables, and the prefixes that compete. As in ESPnet, a prefix that was
        reached by repeating its last token alone has variables but does not compete.
    """
    running = set(prefixes)
    none = (-math.inf, -math.inf)
    new: dict[Prefix, Forward] = {}
    reached: dict[Prefix, None] = {}  # in order, where a set has none
    for prefix in prefixes:
        n_past, b_past = forward.get(prefix, none)
        both = np.logaddexp(n_past, b_past)
        for c in tokens:
            p = frame[c]
            if c == blank:
                n, b = new.get(prefix, none)
                new[prefix] = (n, np.logaddexp(b, p + both + blank_bonus))
                reached[prefix] = None
                continue
            longer = (*prefix, c)
            n, b = new.get(longer, none)
            if c == prefix[-1]:
                n = np.logaddexp(n, p + b_past)
                n_same, b_same = new.get(prefix, none)
                n_same = np.logaddexp(n_same, p + n_past + blank_bonus)
                new[prefix] = (n_same, b_same)
            else:
                n = np.logaddexp(n, p + both)
            if longer not in running and longer in forward:
                # It fell out of the beam and comes back with its own past.
                n_old, b_old = forward[longer]
                b = np.logaddexp(b, frame[blank] + np.logaddexp(n_old, b_old))
                n = np.logaddexp(n, p + n_old)
            new[longer] = (n, b)
            reached[longer] = None
    return new, list(reached)


def check_time_sync(search: LabelSynchronous, has_ctc: bool) -> None:
    """Refuse a model that this search is not for.

    Raises:
        PluginError: naming the reason.
    """
    if search.primer is not None:
        raise PluginError(
            "time_sync is not for models of Whisper's tokens, in ESPnet either: that "
            "search begins with the start symbol alone"
        )
    if "decoder" in search.together:
        raise PluginError(
            "time_sync is not for this model's decoder, in ESPnet either: that search "
            "scores one hypothesis at a time"
        )
    if not has_ctc:
        raise PluginError(
            "the model has no CTC: set ctc_weight to 0 and time_sync to false"
        )


class TimeSyncSearch:
    """Search over one utterance after the other; arguments as of ``BeamSearch``."""

    def __init__(self, config: BeamSearchConfig, scorers: Mapping[str, FullScorer]):
        self._config = config
        # ESPnet asks these two when their weight is positive, and knows no n-gram.
        self.scorers = {
            name: scorers[name]
            for name in ("decoder", "lm")
            if name in scorers and config.weights.get(name, 0.0) > 0
        }
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the best token sequences of each utterance.

        Args:
            encoded: the encoder's outputs.
            primers: ignored; hypotheses begin with the start symbol.

        Returns:
            For each utterance at most ``beam_size`` hypotheses, best first.
        """
        self.seconds = dict.fromkeys(self.scorers, 0.0)
        return [self._search(encoded.select([i])) for i in range(encoded.utterances)]

    def _search(self, encoded: Encoded) -> list[Hypothesis]:
        config = self._config
        frames = int(encoded.lengths[0])
        logger.info("decoder input lengths: %d", frames)
        log_probs = encoded.of(0, "ctc_log_probs")
        prefix_scores = {
            name: PrefixScores(scorer, encoded, config.sos)
            for name, scorer in self.scorers.items()
        }
        prefixes: list[Prefix] = [(config.sos,)]
        forward: dict[Prefix, Forward] = {prefixes[0]: (-math.inf, 0.0)}
        totals: dict[Prefix, float] = {}
        for frame in log_probs:
            tokens = candidates(frame, config.beam_size)
            forward, reached = advance(frame, tokens, prefixes, forward, config.blank)
            totals = self._joint(reached, forward, prefix_scores)
            prefixes = sorted(totals, key=totals.__getitem__, reverse=True)
            prefixes = prefixes[: config.beam_size]
        for name, scores in prefix_scores.items():
            self.seconds[name] += scores.seconds
        hypotheses = [Hypothesis([*p, config.sos], totals[p]) for p in prefixes]
        log_best(config, hypotheses[0])
        return hypotheses

    def _joint(
        self,
        reached: Sequence[Prefix],
        forward: Mapping[Prefix, Forward],
        prefix_scores: Mapping[str, Scores],
    ) -> dict[Prefix, float]:
        """Weighted totals of the prefixes that compete."""
        config = self._config
        extended = [prefix for prefix in reached if len(prefix) > 1]
        for scores in prefix_scores.values():
            scores.prepare([prefix[:-1] for prefix in extended])
        totals = {}
        for prefix in reached:
            non_blank, blank = forward[prefix]
            total = config.weights["ctc"] * np.logaddexp(non_blank, blank)
            if len(prefix) > 1:
                for name, scores in prefix_scores.items():
                    total += config.weights[name] * scores[prefix]
            total += config.weights["length_bonus"] * (len(prefix) - 1)
            totals[prefix] = float(total)
        return totals
