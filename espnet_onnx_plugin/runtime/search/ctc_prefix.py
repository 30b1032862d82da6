"""CTC prefix scores without a loop over frames.

Algorithm 2 of Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech
Recognition" (2017), as in ESPnet's ``CTCPrefixScoreTH``. The score of a candidate c
after prefix g needs no forward variables of its own:

    psi(g c) = logsumexp over t of phi(t - 1) + log p_t(c)

where phi(t) is the probability of g up to frame t (its blank-ended part alone where c
repeats g's last token). In the probability domain that is a matrix product. Forward
variables are worked out for the hypotheses that survive, as a cumulative sum in the log
domain.

A window, which ESPnet has from release 202611 on, leaves out frames that the prefixes
of a step are hardly in: those far before or behind where their probability is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

LOGZERO = -1e10  # ESPnet's; finite, so that differences of two are defined

#: Frames with a token in them that a window holds ahead, however long the silence
#: before them; ESPnet's constant.
WINDOW_TOKENS = 5

#: Where every step scores the whole vocabulary, its probabilities (double precision)
#: are kept if they are no more than this; else each step works them out, by blocks.
KEPT_BYTES = 64 * 2**20
BLOCK_BYTES = 4 * 2**20


class Reach(NamedTuple):
    """Frames in which prefixes are most probable.

    Attributes:
        least, most: of the prefix that is behind the others, and of the foremost one.
    """

    least: int = 0
    most: int = 1


@dataclass(frozen=True)
class CTCPrefixState:
    """Rows are hypotheses.

    Attributes:
        tokens: (N,) last token of each, or -1 for the empty prefix.
        length: tokens in each prefix (the same for all).
        r: (N, 2, T) log forward variables, non-blank and blank.
        score: (N,) log prefix probability psi.
        reach: where the window of the step before was; unused without a window.
    """

    tokens: np.ndarray
    length: int
    r: np.ndarray
    score: np.ndarray
    reach: Reach = Reach()

    @cached_property
    def phi(self) -> np.ndarray:
        """(N, T) log probability of each prefix up to a frame."""
        return np.logaddexp(self.r[:, 0], self.r[:, 1])

    def keep(self, ids: np.ndarray) -> CTCPrefixState:
        """The state of some of the hypotheses."""
        return CTCPrefixState(
            self.tokens[ids], self.length, self.r[ids], self.score[ids], self.reach
        )


class CTCPrefixScorer:
    """Prefix scores for one utterance.

    Args:
        log_probs: (T, vocabulary) log probabilities of the CTC. They or one copy are
            kept; what the arithmetic takes in double precision is made of the tokens
            asked for.
        blank, eos: token ids.
        window_margin: how many frames the window of a step holds before and behind
            where its prefixes are; 0 or less: no window.
        copied: whether there is a copy with a row per token, which candidates are
            gathered from in a fifth of the time. Where few steps look at the same
            frames it does not pay: 1.8 ms, for 0.1 ms less a step (400 frames, 4,233
            tokens).
    """

    def __init__(
        self,
        log_probs: np.ndarray,
        blank: int,
        eos: int,
        window_margin: int = 0,
        copied: bool = True,
    ):
        # One row per token.
        self._log_probs = np.ascontiguousarray(log_probs.T) if copied else log_probs.T
        self._blank_sums = np.cumsum(self._log_probs[blank], dtype=np.float64)
        self._blank = blank
        self._eos = eos
        self._margin = window_margin
        if window_margin > 0:
            #: Number of frames so far that have a token as their best label.
            self._heard = np.cumsum(log_probs.argmax(axis=1) != blank)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._log_probs.shape[0]

    @property
    def _frames(self) -> int:
        return self._log_probs.shape[1]

    @cached_property
    def _kept_probs(self) -> np.ndarray | None:
        """Probabilities of the whole vocabulary, if they are few enough to be kept."""
        if 8 * self._log_probs.size > KEPT_BYTES:
            return None
        return np.exp(self._log_probs, dtype=np.float64, order="C")

    def start(self, primer: Sequence[int] = ()) -> CTCPrefixState:
        """The state of the empty prefix: blanks only.

        Args:
            primer: tokens that hypotheses begin with after the start symbol and that
                take a frame each, though they have no probability, as in ESPnet before
                202611.
        """
        r = np.full((1, 2, self._frames), LOGZERO)
        r[0, 1] = self._blank_sums
        last = np.array([primer[-1] if len(primer) else -1])
        return CTCPrefixState(last, len(primer), r, np.zeros(1))

    def lengthen(self, state: CTCPrefixState) -> CTCPrefixState:
        """A state that was made from the first frames alone, for all frames.

        As in ESPnet, in the new frames a prefix can but stay silent: its last token
        does not go on, and what had ended in that token does not pass over into the
        blanks. Its score stays that of the first frames.
        """
        before = state.r.shape[2]
        if before == self._frames:
            return state
        r = np.full((len(state.r), 2, self._frames), LOGZERO)
        r[..., :before] = state.r
        silence = self._blank_sums[before:] - self._blank_sums[before - 1]
        r[:, 1, before:] = np.maximum(state.r[:, 1, -1:] + silence, LOGZERO)
        return CTCPrefixState(state.tokens, state.length, r, state.score, state.reach)

    def _window(self, state: CTCPrefixState) -> tuple[int, int, Reach]:
        """First frame and end of what a step looks at, and how far prefixes are."""
        frames, before = self._frames, state.reach
        first = max(state.length, 1)
        if self._margin <= 0:
            return min(first, frames), frames, before
        # ESPnet's single precision decides which frames are equally probable.
        peaks = state.phi.astype(np.float32).argmax(axis=1)
        reach = Reach(
            max(int(peaks.min()), before.least), max(int(peaks.max()), before.most)
        )
        first = min(before.most, max(reach.least - self._margin, first))
        end = reach.most + self._margin + 1
        if end < frames:  # then it goes on to the tokens behind a silence
            wanted = self._heard[reach.most] + WINDOW_TOKENS
            heard = int(np.searchsorted(self._heard, wanted))
            end = max(end, min(heard, frames - 1) + 1)
        return first, min(end, frames), reach

    def score(self, state: CTCPrefixState, candidates: np.ndarray | None) -> np.ndarray:
        """Score candidates as the next token.

        Args:
            state: N prefixes.
            candidates: (N, S) token ids, or None for the whole vocabulary in order.

        Returns:
            (N, S) float64, log psi of each prefix with each candidate. The end of the
            sentence has the probability of the prefix itself; the blank, which is no
            token, has :data:`LOGZERO`.
        """
        first, end, _ = self._window(state)
        ids = candidates
        if ids is None:
            shape = (len(state.tokens), self.vocabulary)
            ids = np.broadcast_to(np.arange(self.vocabulary), shape)
        if first >= end:
            scores = np.full(ids.shape, LOGZERO)
        else:
            # phi(t - 1) for t = first ... end - 1.
            before = state.phi[:, first - 1 : end - 1]
            frames = slice(first, end)
            if candidates is None:
                scores = self._dot_all(before, frames)
            else:
                scores = self._dot(before, frames, ids)
            # A candidate that repeats the last token needs a blank in between.
            rows, columns = np.nonzero(ids == state.tokens[:, None])
            if len(rows):
                repeat = state.r[rows, 1, first - 1 : end - 1]
                log_probs = self._log_probs[ids[rows, columns], frames]
                scores[rows, columns] = np.logaddexp.reduce(repeat + log_probs, axis=1)
        if state.length == 0:  # the first token may start in the first frame
            scores = np.logaddexp(scores, self._log_probs[ids, 0])
        if self._eos != self._blank:
            scores[ids == self._blank] = LOGZERO
        return np.where(ids == self._eos, state.phi[:, -1:], scores)

    def _dot_all(self, before: np.ndarray, frames: slice) -> np.ndarray:
        """logsumexp over frames of before + log p, for the whole vocabulary."""
        peak = before.max(axis=1, keepdims=True)
        share = np.exp(before - peak)
        if self._kept_probs is not None:
            product = share @ self._kept_probs[:, frames].T
        else:
            product = np.empty((len(before), self.vocabulary))
            block = max(1, BLOCK_BYTES // (8 * before.shape[1]))
            for token in range(0, self.vocabulary, block):
                tokens = slice(token, token + block)
                log_probs = self._log_probs[tokens, frames]
                probs = np.exp(log_probs, dtype=np.float64, order="C")
                product[:, tokens] = share @ probs.T
        return self._log(product, peak, before, frames, None)

    def _dot(self, before: np.ndarray, frames: slice, ids: np.ndarray) -> np.ndarray:
        """logsumexp over frames of before + log p, for some tokens of each row."""
        peak = before.max(axis=1, keepdims=True)
        # One product for the tokens that any row asks for: hypotheses ask for much the
        # same ones.
        tokens, columns = np.unique(ids, return_inverse=True)
        probs = np.exp(self._log_probs[tokens, frames], dtype=np.float64)
        product = np.exp(before - peak) @ probs.T
        product = np.take_along_axis(product, columns.reshape(ids.shape), axis=1)
        return self._log(product, peak, before, frames, ids)

    def _log(
        self,
        product: np.ndarray,
        peak: np.ndarray,
        before: np.ndarray,
        frames: slice,
        ids: np.ndarray | None,
    ) -> np.ndarray:
        tiny = product < 1e-280  # where the product may have lost its small terms
        with np.errstate(divide="ignore"):
            scores = np.log(product) + peak
        for row, column in zip(*np.nonzero(tiny)):
            token = column if ids is None else ids[row, column]
            scores[row, column] = np.logaddexp.reduce(
                before[row] + self._log_probs[token, frames]
            )
        return scores

    def extend(
        self,
        state: CTCPrefixState,
        parents: np.ndarray,
        tokens: np.ndarray,
        scores: np.ndarray,
    ) -> CTCPrefixState:
        """The state of the hypotheses that survived.

        Args:
            state: of the previous step.
            parents: (M,) row of ``state`` that each extends.
            tokens: (M,) the token that each got.
            scores: (M,) what :meth:`score` gave for them.
        """
        first, end, reach = self._window(state)
        r = np.full((len(parents), 2, self._frames), LOGZERO)
        if state.length == 0:
            r[:, 0, 0] = self._log_probs[tokens, 0]
        if first < end:
            phi = state.phi[parents, first - 1 : end - 1]
            repeats = tokens == state.tokens[parents]
            phi[repeats] = state.r[parents[repeats], 1, first - 1 : end - 1]
            # r_n(t) = logaddexp(r_n(t-1), phi(t-1)) + log p_t(c), likewise r_b: less
            # the running sum of log p each is a cumulative logaddexp.
            inside = r[:, :, first - 1 : end]
            sums = np.cumsum(
                self._log_probs[tokens, first:end], axis=1, dtype=np.float64
            )
            self._accumulate(inside[:, 0], phi, sums)
            sums = self._blank_sums[first:end] - self._blank_sums[first - 1]
            self._accumulate(inside[:, 1], inside[:, 0, :-1], sums[None])
            # Behind the window a prefix can but stay silent, or none could end there.
            silence = self._blank_sums[end:] - self._blank_sums[end - 1]
            edge = np.logaddexp(r[:, 0, end - 1], r[:, 1, end - 1])
            r[:, 1, end:] = np.maximum(edge[:, None] + silence, LOGZERO)
        return CTCPrefixState(tokens, state.length + 1, r, scores, reach)

    @staticmethod
    def _accumulate(r: np.ndarray, source: np.ndarray, sums: np.ndarray) -> None:
        """r(t) = logaddexp(r(t-1), source(t-1)) + log p_t, but for the first frame.

        Args:
            r: (N, frames) with its first frame filled in.
            source: (N, frames - 1), all but the last frame.
            sums: (N or 1, frames - 1) of log p up to each frame but the first.
        """
        terms = np.empty_like(r)
        terms[:, 0] = r[:, 0]
        terms[:, 1] = source[:, 0]
        terms[:, 2:] = source[:, 1:] - sums[:, :-1]
        total = np.logaddexp.accumulate(terms, axis=1)[:, 1:]
        r[:, 1:] = np.maximum(total + sums, LOGZERO)
