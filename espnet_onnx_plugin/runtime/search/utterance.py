"""Label-synchronous search over one utterance, whose scores come from outside.

Its arithmetic is float32 where ESPnet's is, in the same order of summation, so that
near ties fall the same way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.releases import Conventions
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer, CTCPrefixState
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis

logger = logging.getLogger(__name__)

PRE_BEAM_RATIO = 1.5  # ESPnet's default, which its recipes cannot change


@dataclass(frozen=True)
class BeamSearchConfig:
    """Settings of a search, in the words of ESPnet's decoding configurations.

    Attributes:
        weights: by scorer: decoder, ctc, length_bonus, lm, ngram.
        conventions: of the release of ESPnet that the search follows.
        maxlenratio: 0: up to the number of frames, with end detection; positive: that
            share of the frames; negative: a constant.
        minlenratio: likewise, without end detection.
        return_hs: whether hypotheses come with their ``hs``.
        end_is_candidate: whether the end symbol is scored after every hypothesis, as in
            ESPnet's ``BatchBeamSearch``, or where it is among the best tokens only, as
            in the ``BeamSearch`` that ESPnet takes for scorers of single hypotheses.
        primer: the tokens that hypotheses begin with, start symbol included, where a
            call names none; None: the start symbol.
        max_tokens: how many tokens the decoder can read; None: any number.
        ctc_window_margin: frames that the CTC prefix score looks at before and behind
            where the hypotheses of a step are; 0: all frames.
        memory: onnxruntime's name of the device's memory, where a search over whole
            utterances leaves its scores; None: it takes them as arrays.
        resident_from: the fewest utterances of a batch whose scores stay there.
        cuda_graphs: whether steps of the same sizes are repeated there.
    """

    beam_size: int
    vocabulary: int
    sos: int
    eos: int
    weights: Mapping[str, float]
    conventions: Conventions
    blank: int = 0
    pre_beam: bool = True
    maxlenratio: float = 0.0
    minlenratio: float = 0.0
    normalize_length: bool = False
    return_hs: bool = False
    end_is_candidate: bool = True
    primer: Sequence[int] | None = None
    max_tokens: int | None = None
    ctc_window_margin: int = 0
    memory: str | None = None
    resident_from: int = 1
    cuda_graphs: bool = False
    token_list: list[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise PluginError(f"beam_size {self.beam_size} must be 1 or more")
        if self.beam_size > self.vocabulary:
            raise PluginError(
                f"beam_size {self.beam_size} is larger than the vocabulary "
                f"({self.vocabulary} tokens), which ESPnet's search cannot take "
                f"either; use {self.vocabulary} or less"
            )

    @property
    def pre_beam_size(self) -> int | None:
        """Number of tokens of a hypothesis that get a CTC score; None: all of them."""
        size = int(PRE_BEAM_RATIO * self.beam_size)
        return size if self.pre_beam and size < self.vocabulary else None

    @property
    def scores_fall(self) -> bool:
        """Whether a hypothesis never scores higher than one that it continues: what is
        added is a log probability, or a bonus that is none.
        """
        weights = self.weights
        signs = [-w if name == "length_bonus" else w for name, w in weights.items()]
        return min(signs, default=0.0) >= 0.0 and not self.normalize_length


def top(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the largest scores of each row, (..., count), in no order."""
    if count >= scores.shape[-1]:
        return np.broadcast_to(np.arange(scores.shape[-1]), scores.shape)
    return np.argpartition(scores, -count, axis=-1)[..., -count:]


def top_sorted(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the largest of a vector, best first; equal ones by index."""
    chosen = np.sort(top(scores, count))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def length_bounds(
    frames: int, maxlenratio: float, minlenratio: float
) -> tuple[int, int]:
    """Largest and smallest number of tokens for an utterance, as ESPnet bounds it."""
    if maxlenratio == 0:
        maxlen = frames
    elif maxlenratio < 0:
        maxlen = -int(maxlenratio)
    else:
        maxlen = max(1, int(maxlenratio * frames))
    if minlenratio < 0:
        minlen = -int(minlenratio)
    else:
        minlen = int(minlenratio * frames)
    return maxlen, minlen


def end_detected(ended: list[Hypothesis], step: int) -> bool:
    """Eq. (50) of Watanabe et al. 2017, with ESPnet's constants (M=3, D_end=-10).

    True when none of the hypotheses that ended in the last three steps comes near the
    best one.
    """
    if not ended:
        return False
    best = max(h.score for h in ended)
    for back in range(3):
        same_length = [h.score for h in ended if len(h.yseq) == step - back]
        if not same_length or max(same_length) - best >= -10.0:
            return False
    return True


@dataclass
class Beam:
    """Running hypotheses; row i of every array is hypothesis i."""

    names: tuple[str, ...]  # of the scorers
    yseq: np.ndarray  # (N, length) int64
    score: np.ndarray  # (N,) float32
    scores: np.ndarray  # (N, scorers) float32
    parents: np.ndarray  # (N,) the hypothesis of the previous step that each extends
    ranks: np.ndarray  # (N,) of each among the survivors of the step
    ctc: CTCPrefixState | None
    #: (N, steps) in each step so far, the running hypothesis that became this one; None
    #: where nobody asks.
    rows: np.ndarray | None

    def extended(
        self,
        parents: np.ndarray,
        tokens: np.ndarray,
        score: np.ndarray,
        chosen: np.ndarray,
        ctc: CTCPrefixState | None = None,
    ) -> Beam:
        """Survivors of a step.

        Args:
            parents: (N,) the hypothesis that each extends.
            tokens: (N,) that each got.
            score: (N,) the totals.
            chosen: (N, scorers) what each scorer gave for the tokens.
            ctc: the state of their CTC prefix scores.
        """
        rows = self.rows
        if rows is not None:
            rows = np.concatenate((rows[parents], parents[:, None]), axis=1)
        return Beam(
            self.names,
            np.concatenate((self.yseq[parents], tokens[:, None]), axis=1),
            score,
            self.scores[parents] + chosen,
            parents,
            np.arange(len(parents)),
            ctc,
            rows,
        )

    def keep(self, ids: np.ndarray) -> Beam:
        """Some of the hypotheses."""
        return Beam(
            self.names,
            self.yseq[ids],
            self.score[ids],
            self.scores[ids],
            self.parents[ids],
            self.ranks[ids],
            self.ctc.keep(ids) if self.ctc is not None else None,
            self.rows[ids] if self.rows is not None else None,
        )

    def hypothesis(self, row: int, hs: Sequence[np.ndarray] = ()) -> Hypothesis:
        """One of the hypotheses as a result."""
        return Hypothesis(
            yseq=self.yseq[row].tolist(),
            score=float(self.score[row]),
            scores=dict(zip(self.names, self.scores[row].tolist())),
            hs=hs,
        )

    def __len__(self) -> int:
        return len(self.yseq)


def first(
    config: BeamSearchConfig,
    primer: Sequence[int],
    scorers: Iterable[str],
    ctc: CTCPrefixState | None = None,
) -> Beam:
    """The hypothesis that a search begins with.

    Args:
        config: settings of the search.
        primer: its tokens.
        scorers: names of the full ones, in the order of their scores.
        ctc: the state of its CTC prefix score.
    """
    names = (*scorers, "ctc") if config.weights.get("ctc") else tuple(scorers)
    return Beam(
        names,
        yseq=np.array([primer], dtype=np.int64),
        score=np.zeros(1, np.float32),
        scores=np.zeros((1, len(names)), np.float32),
        parents=np.zeros(1, np.int64),
        ranks=np.zeros(1, np.int64),
        ctc=ctc,
        rows=np.zeros((1, 0), np.int64) if config.return_hs else None,
    )


class Expander:
    """Extends the hypotheses of an utterance by a token.

    Args:
        config: settings of the search.
        ctc: CTC prefix scores of the utterance, where they are asked for.

    Attributes:
        config: settings of the search.
        ctc: CTC prefix scores, where they are asked for.
        ctc_seconds: time spent on CTC prefix scores.
    """

    def __init__(self, config: BeamSearchConfig, ctc: CTCPrefixScorer | None):
        self.config = config
        self.ctc = ctc
        self._pre_beam = config.pre_beam_size if ctc is not None else None
        self.ctc_seconds = 0.0

    def start(self, primer: Sequence[int], scorers: Iterable[str]) -> Beam:
        """The hypothesis that a search begins with."""
        counts = self.config.conventions.ctc_counts_primer
        counted = primer[1:] if counts else ()
        return first(
            self.config,
            primer,
            scorers,
            self.ctc.start(counted) if self.ctc is not None else None,
        )

    def extend(self, beam: Beam, parts: Mapping[str, np.ndarray]) -> Beam:
        """Every hypothesis by every token, the best ``beam_size`` of them, best first.

        Args:
            beam: the running hypotheses.
            parts: (hypotheses, vocabulary) of each full scorer.
        """
        config = self.config
        total = np.zeros((len(beam), config.vocabulary), np.float32)
        for name, scores in parts.items():
            total += np.float32(config.weights[name]) * scores
        ids = None  # the tokens that ``total`` has a column for, or all
        if self._pre_beam is not None:
            ids, total = self._candidates(total, self._pre_beam)
        if self.ctc is not None and beam.ctc is not None:
            start = time.perf_counter()
            psi = self.ctc.score(beam.ctc, ids)
            self.ctc_seconds += time.perf_counter() - start
            ctc = (psi - beam.ctc.score[:, None]).astype(np.float32)
            total += np.float32(config.weights["ctc"]) * ctc
        total += beam.score[:, None]

        best = top_sorted(total.ravel(), config.beam_size)
        parents, columns = np.divmod(best, total.shape[1])
        tokens = columns if ids is None else ids[parents, columns]
        chosen = [scores[parents, tokens] for scores in parts.values()]
        state = None
        if self.ctc is not None and beam.ctc is not None:
            chosen.append(ctc[parents, columns])
            start = time.perf_counter()
            state = self.ctc.extend(beam.ctc, parents, tokens, psi[parents, columns])
            self.ctc_seconds += time.perf_counter() - start
        score = total[parents, columns]
        return beam.extended(parents, tokens, score, np.stack(chosen, axis=1), state)

    def _candidates(
        self, total: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (N, S) that get a CTC score, and their columns of ``total``: the
        ``count`` best ones of each hypothesis so far, and the end symbol.
        """
        ids = np.sort(top(total, count), axis=1)
        if not self.config.end_is_candidate:
            return ids, np.take_along_axis(total, ids, axis=1)
        twice = (ids == self.config.eos).any(axis=1)
        end = np.full((len(ids), 1), self.config.eos)
        ids = np.concatenate((ids, end), axis=1)
        total = np.take_along_axis(total, ids, axis=1)
        total[twice, -1] = -np.inf  # it must not stand in two columns
        return ids, total


class UtteranceSearch:
    """The search over one utterance, whose hypotheses are extended outside.

    Args:
        config: settings of the search.
        frames: how many the utterance has.
        minlenratio: in place of the configuration's.
        primer: tokens that the hypotheses begin with.
        beam: the first hypothesis.

    Attributes:
        beam: the running hypotheses.
        ended: those that ended.
        done: whether the search is over.
    """

    def __init__(
        self,
        config: BeamSearchConfig,
        frames: int,
        minlenratio: float,
        primer: Sequence[int],
        beam: Beam,
    ):
        self._config = config
        bounds = length_bounds(frames, config.maxlenratio, minlenratio)
        self._maxlen, self._minlen = bounds
        if config.max_tokens is not None:  # beyond them ESPnet's decoder breaks down
            self._maxlen = min(self._maxlen, config.max_tokens - len(primer) + 1)
        logger.info("decoder input length: %d", frames)
        logger.info("max output length: %d", self._maxlen)
        logger.info("min output length: %d", self._minlen)
        self._step = 0
        #: Tokens by which end detection knows hypotheses to be longer than their steps.
        self._primed = len(primer) - 1 if config.conventions.end_counts_primer else 0
        self.beam = beam
        self._hidden: list[np.ndarray] = []
        self.ended: list[Hypothesis] = []
        self.done = self._maxlen < 1

    def remember(self, hidden: np.ndarray) -> None:
        """Take what the decoder's output layer read in this step, (N, dim)."""
        self._hidden.append(hidden)

    def advance(self, beam: Beam) -> None:
        """Take up the hypotheses, extended by a token."""
        config = self._config
        if self._step == self._maxlen - 1:
            # As ESPnet does, to the ended ones too: these get a second end symbol.
            logger.info("adding <eos> in the last position in the loop")
            end = np.full((len(beam), 1), config.eos, np.int64)
            beam.yseq = np.concatenate((beam.yseq, end), axis=1)
        is_end = beam.yseq[:, -1] == config.eos
        if is_end.any():
            if self._step >= self._minlen:
                ended = np.flatnonzero(is_end).tolist()
                self.ended += [self._hypothesis(beam, i) for i in ended]
            beam = beam.keep(np.flatnonzero(~is_end))
        self.beam = beam
        step = self._step + self._primed
        if config.maxlenratio == 0.0 and end_detected(self.ended, step):
            logger.info("end detected at %d", self._step)
            self.done = True
        elif len(self.beam) == 0:
            logger.info("no hypothesis. Finish decoding.")
            self.done = True
        self._step += 1
        self.done |= self._step == self._maxlen

    def _hypothesis(self, beam: Beam, row: int) -> Hypothesis:
        hs: list[np.ndarray] = []
        if beam.rows is not None:
            hs = [step[i] for step, i in zip(self._hidden, beam.rows[row])]
        return beam.hypothesis(row, hs)
