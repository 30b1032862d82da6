"""Label-synchronous beam search: ESPnet's ``BatchBeamSearch`` to the token.

The search never knows a network: scorers come from outside. Its arithmetic is float32
where ESPnet's is, in the same order of summation, so that near ties fall the same way.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.ctc_prefix import CTCPrefixScorer
from espnet_onnx_plugin.runtime.scorers import Encoded, FullScorer

logger = logging.getLogger(__name__)

PRE_BEAM_RATIO = 1.5  # ESPnet's default, which its recipes cannot change


class Hypothesis(NamedTuple):
    """A result, with the attributes of ESPnet's class of that name.

    Attributes:
        yseq: token ids with the start and end symbols.
        score: the total.
        scores: unweighted sums by scorer.
        states: empty; kept because ESPnet's has it.
    """

    yseq: Sequence[int]
    score: float = 0.0
    scores: Dict[str, float] = {}
    states: Dict[str, Any] = {}


@dataclass(frozen=True)
class BeamSearchConfig:
    """What the search is told, in the words of ESPnet's decoding configurations.

    Attributes:
        weights: by scorer: decoder, ctc, length_bonus, lm, ngram.
        maxlenratio: 0: up to the number of frames, with end detection; positive: that
            share of the frames; negative: a constant.
        minlenratio: likewise, without end detection.
    """

    beam_size: int
    vocabulary: int
    sos: int
    eos: int
    weights: Dict[str, float]
    blank: int = 0
    pre_beam: bool = True
    maxlenratio: float = 0.0
    minlenratio: float = 0.0
    normalize_length: bool = False
    token_list: Optional[List[str]] = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise PluginError(f"beam_size {self.beam_size} must be 1 or more")
        if self.beam_size > self.vocabulary:
            raise PluginError(
                f"beam_size {self.beam_size} is larger than the vocabulary "
                f"({self.vocabulary} tokens), which ESPnet's search cannot take "
                f"either; use {self.vocabulary} or less"
            )


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
) -> Tuple[int, int]:
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


def end_detected(ended: List[Hypothesis], step: int) -> bool:
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
class _Beam:
    """Running hypotheses; row i of every array is hypothesis i."""

    yseq: np.ndarray  # (N, length) int64
    score: np.ndarray  # (N,) float32
    scores: Dict[str, np.ndarray]  # each (N,) float32
    parents: np.ndarray  # (N,) rows of the states below
    states: Dict[str, Any]
    ctc: Any = None  # rows are these hypotheses

    def keep(self, ids: np.ndarray) -> "_Beam":
        ctc = self.ctc
        if ctc is not None:
            ctc = type(ctc)(ctc.tokens[ids], ctc.length, ctc.r[ids], ctc.score[ids])
        return _Beam(
            self.yseq[ids],
            self.score[ids],
            {k: v[ids] for k, v in self.scores.items()},
            self.parents[ids],
            self.states,
            ctc,
        )

    def __len__(self) -> int:
        return len(self.yseq)


class BeamSearch:
    """Search over one utterance at a time.

    Args:
        config: what to search for.
        scorers: full scorers by name, in ESPnet's order; those of weight 0 are not
            asked.
    """

    def __init__(self, config: BeamSearchConfig, scorers: Dict[str, FullScorer]):
        self._config = config
        self._scorers = {k: s for k, s in scorers.items() if config.weights.get(k)}
        self._use_ctc = bool(config.weights.get("ctc"))
        self._pre_beam_size = int(PRE_BEAM_RATIO * config.beam_size)
        self._use_pre_beam = (
            config.pre_beam
            and self._use_ctc
            and self._pre_beam_size < config.vocabulary
        )

    def __call__(self, encoded: Encoded) -> List[Hypothesis]:
        """Find the best token sequences.

        Args:
            encoded: the encoder's outputs for one utterance.

        Returns:
            All hypotheses that ended, best first. Empty if none did, which ESPnet
            answers with an empty list too.
        """
        config = self._config
        minlenratio = config.minlenratio
        while True:
            ended = self._search(encoded, minlenratio)
            if ended:
                break
            logger.warning(
                "there is no N-best results, perform recognition again with smaller "
                "minlenratio."
            )
            if minlenratio < 0.1:
                return []
            minlenratio = max(0.0, minlenratio - 0.1)
        if config.normalize_length:
            ended.sort(key=lambda h: h.score / (len(h.yseq) - 1), reverse=True)
        else:
            ended.sort(key=lambda h: h.score, reverse=True)
        self._log_best(ended)
        return ended

    def _search(self, encoded: Encoded, minlenratio: float) -> List[Hypothesis]:
        config = self._config
        maxlen, minlen = length_bounds(encoded.frames, config.maxlenratio, minlenratio)
        logger.info("decoder input length: %d", encoded.frames)
        logger.info("max output length: %d", maxlen)
        logger.info("min output length: %d", minlen)
        ctc = None
        if self._use_ctc:
            log_probs = encoded["ctc_log_probs"][0, : encoded.frames]
            ctc = CTCPrefixScorer(log_probs, config.blank, config.eos)
        beam = _Beam(
            yseq=np.array([[config.sos]], dtype=np.int64),
            score=np.zeros(1, np.float32),
            scores={k: np.zeros(1, np.float32) for k in (*self._scorers, "ctc")},
            parents=np.zeros(1, np.int64),
            states={k: s.start(encoded) for k, s in self._scorers.items()},
            ctc=ctc.start() if ctc is not None else None,
        )
        ended: List[Hypothesis] = []
        for step in range(maxlen):
            beam = self._extend(beam, ctc)
            if step == maxlen - 1:
                # As ESPnet does, to the ended ones too: these get a second end symbol.
                logger.info("adding <eos> in the last position in the loop")
                end = np.full((len(beam), 1), config.eos, np.int64)
                beam.yseq = np.concatenate((beam.yseq, end), axis=1)
            is_end = beam.yseq[:, -1] == config.eos
            if step >= minlen:
                ended += [self._hypothesis(beam, i) for i in np.flatnonzero(is_end)]
            beam = beam.keep(np.flatnonzero(~is_end))
            if config.maxlenratio == 0.0 and end_detected(ended, step):
                logger.info("end detected at %d", step)
                break
            if len(beam) == 0:
                logger.info("no hypothesis. Finish decoding.")
                break
        return ended

    def _extend(self, beam: _Beam, ctc: Optional[CTCPrefixScorer]) -> _Beam:
        """One step: every hypothesis by every token, the best ``beam_size`` of them."""
        config = self._config
        weights = config.weights
        total = np.zeros((len(beam), config.vocabulary), np.float32)
        parts, states = {}, {}
        for name, scorer in self._scorers.items():
            parts[name], states[name] = scorer.score(
                beam.yseq[:, -1], beam.parents, beam.states[name]
            )
            total += np.float32(weights[name]) * parts[name]
        psi = None
        if ctc is not None:
            candidates = None
            if self._use_pre_beam:
                candidates = top(total, self._pre_beam_size)
            psi = ctc.score(beam.ctc, candidates)
            parts["ctc"] = (psi - beam.ctc.score[:, None]).astype(np.float32)
            total += np.float32(weights["ctc"]) * parts["ctc"]
        total += beam.score[:, None]

        best = top_sorted(total.ravel(), config.beam_size)
        parents, tokens = np.divmod(best, config.vocabulary)
        return _Beam(
            yseq=np.concatenate((beam.yseq[parents], tokens[:, None]), axis=1),
            score=total[parents, tokens],
            scores={
                k: beam.scores[k][parents] + v[parents, tokens]
                for k, v in parts.items()
            },
            parents=parents,
            states=states,
            ctc=ctc.extend(beam.ctc, psi, parents, tokens) if ctc is not None else None,
        )

    @staticmethod
    def _hypothesis(beam: _Beam, row: int) -> Hypothesis:
        return Hypothesis(
            yseq=beam.yseq[row].tolist(),
            score=float(beam.score[row]),
            scores={k: float(v[row]) for k, v in beam.scores.items()},
        )

    def _log_best(self, ended: List[Hypothesis]) -> None:
        """The lines that ESPnet logs of a result."""
        config = self._config
        best = ended[0]
        for name, value in best.scores.items():
            weight = config.weights[name]
            logger.info(
                "%6.2f * %3s = %6.2f for %s", value, weight, value * weight, name
            )
        logger.info("total log probability: %.2f", best.score)
        logger.info("normalized log probability: %.2f", best.score / len(best.yseq))
        logger.info("total number of ended hypotheses: %d", len(ended))
        if config.token_list is not None:
            text = "".join(config.token_list[i] for i in best.yseq[1:-1])
            logger.info("best hypo: %s\n", text)
