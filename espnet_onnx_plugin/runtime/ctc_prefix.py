"""CTC prefix scores without a loop over frames.

Algorithm 2 of Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech
Recognition" (2017), as in ESPnet's ``CTCPrefixScoreTH``. The score of a candidate c
after prefix g needs no forward variables of its own:

    psi(g c) = logsumexp over t of phi(t - 1) + log p_t(c)

where phi(t) is the probability of g up to frame t (its blank-ended part alone where c
repeats g's last token). In the probability domain that is a matrix product. Forward
variables are worked out for the hypotheses that survive, as a cumulative sum in the log
domain.
"""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

LOGZERO = -1e10  # ESPnet's; finite, so that differences of two are defined


@dataclass(frozen=True)
class CTCPrefixState:
    """Rows are hypotheses.

    Attributes:
        tokens: (N,) last token of each, or -1 for the empty prefix.
        length: tokens in each prefix (the same for all).
        r: (N, 2, T) log forward variables, non-blank and blank.
        score: (N,) log prefix probability psi.
    """

    tokens: np.ndarray
    length: int
    r: np.ndarray
    score: np.ndarray

    def keep(self, ids: np.ndarray) -> "CTCPrefixState":
        """The state of some of the hypotheses."""
        return CTCPrefixState(
            self.tokens[ids], self.length, self.r[ids], self.score[ids]
        )


class CTCPrefixScorer:
    """Prefix scores for one utterance.

    Args:
        log_probs: (T, vocabulary) log probabilities of the CTC.
        blank, eos: token ids.
    """

    def __init__(self, log_probs: np.ndarray, blank: int, eos: int):
        # One row per token: candidates are gathered as contiguous rows.
        self._log_probs = np.ascontiguousarray(log_probs.T, dtype=np.float64)
        self._probs = np.exp(self._log_probs)
        self._sums = np.cumsum(self._log_probs, axis=1)
        self._blank = blank
        self._eos = eos

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._log_probs.shape[0]

    def start(self, primer: Sequence[int] = ()) -> CTCPrefixState:
        """The state of the empty prefix: blanks only.

        Args:
            primer: tokens that hypotheses begin with after the start symbol. As in
                ESPnet they have no probability, but take a frame each.
        """
        r = np.full((1, 2, self._log_probs.shape[1]), LOGZERO)
        r[0, 1] = self._sums[self._blank]
        last = np.array([primer[-1] if len(primer) else -1])
        return CTCPrefixState(last, len(primer), r, np.zeros(1))

    def score(
        self, state: CTCPrefixState, candidates: Optional[np.ndarray]
    ) -> np.ndarray:
        """Score candidates as the next token.

        Args:
            state: N prefixes.
            candidates: (N, S) token ids, or None for the whole vocabulary in order.

        Returns:
            (N, S) float64, log psi of each prefix with each candidate. The end of the
            sentence has the probability of the prefix itself; the blank, which is no
            token, has :data:`LOGZERO`.
        """
        phi = np.logaddexp(state.r[:, 0], state.r[:, 1])  # (N, T)
        count, frames = phi.shape
        first = max(state.length, 1)
        ids = candidates
        if ids is None:
            ids = np.broadcast_to(np.arange(self.vocabulary), (count, self.vocabulary))
        if frames <= first:
            scores = np.full(ids.shape, LOGZERO)
        else:
            # phi(t - 1) for t = first ... T - 1.
            before = phi[:, first - 1 : frames - 1]
            if candidates is None:
                scores = self._dot_all(before, first)
            else:
                scores = self._dot(before, first, ids)
            # A candidate that repeats the last token needs a blank in between.
            rows, columns = np.nonzero(ids == state.tokens[:, None])
            if len(rows):
                repeat = state.r[rows, 1, first - 1 : frames - 1]
                log_probs = self._log_probs[ids[rows, columns], first:]
                scores[rows, columns] = np.logaddexp.reduce(repeat + log_probs, axis=1)
        if state.length == 0:  # the first token may start in the first frame
            scores = np.logaddexp(scores, self._log_probs[ids, 0])
        if self._eos != self._blank:
            scores[ids == self._blank] = LOGZERO
        return np.where(ids == self._eos, phi[:, -1:], scores)

    def _dot_all(self, before, first):
        """logsumexp over frames of before + log p, for the whole vocabulary."""
        peak = before.max(axis=1, keepdims=True)
        product = np.exp(before - peak) @ self._probs[:, first:].T
        return self._log(product, peak, before, first, None)

    def _dot(self, before, first, ids):
        """The same for some tokens of each row."""
        peak = before.max(axis=1, keepdims=True)
        # One product for the tokens that any row asks for: hypotheses ask for much the
        # same ones.
        tokens, columns = np.unique(ids, return_inverse=True)
        product = np.exp(before - peak) @ self._probs[tokens, first:].T
        product = np.take_along_axis(product, columns.reshape(ids.shape), axis=1)
        return self._log(product, peak, before, first, ids)

    def _log(self, product, peak, before, first, ids):
        tiny = product < 1e-280  # where the product may have lost its small terms
        with np.errstate(divide="ignore"):
            scores = np.log(product) + peak
        for row, column in zip(*np.nonzero(tiny)):
            token = column if ids is None else ids[row, column]
            scores[row, column] = np.logaddexp.reduce(
                before[row] + self._log_probs[token, first:]
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
        frames = self._log_probs.shape[1]
        r = np.full((len(parents), 2, frames), LOGZERO)
        first = max(state.length, 1)
        if frames > first or state.length == 0:
            phi = np.logaddexp(state.r[parents, 0], state.r[parents, 1])
            repeats = tokens == state.tokens[parents]
            phi[repeats] = state.r[parents[repeats], 1]
            if state.length == 0:
                r[:, 0, 0] = self._log_probs[tokens, 0]
            # r_n(t) = logaddexp(r_n(t-1), phi(t-1)) + log p_t(c), likewise r_b: less
            # the running sum of log p each is a cumulative logaddexp.
            self._accumulate(r[:, 0], phi, self._sums[tokens], first)
            blank = np.broadcast_to(self._sums[self._blank], phi.shape)
            self._accumulate(r[:, 1], r[:, 0].copy(), blank, first)
        return CTCPrefixState(tokens, state.length + 1, r, scores)

    @staticmethod
    def _accumulate(r, source, sums, first):
        """r(t) = logaddexp(r(t-1), source(t-1)) + log p_t, for t from ``first``."""
        terms = np.concatenate(
            (
                r[:, first - 1 : first] - sums[:, first - 1 : first],
                source[:, first - 1 : -1] - sums[:, first - 1 : -1],
            ),
            axis=1,
        )
        total = np.logaddexp.accumulate(terms, axis=1)[:, 1:]
        r[:, first:] = np.maximum(total + sums[:, first:], LOGZERO)
