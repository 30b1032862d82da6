"""Mask-CTC (Higuchi et al. 2020): ESPnet's ``MaskCTCInference`` to the token.

The greedy result of the CTC, in which tokens of low probability are masked, is filled
by a decoder of whole sequences in a few passes, the surest tokens first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from espnet_onnx_plugin.bundle.search import MaskCTC
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import pad, take, to_numpy
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers, Scorer

logger = logging.getLogger(__name__)


def greedy_with_confidence(
    log_probs: np.ndarray, blank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy result of the CTC, and how sure it is.

    Args:
        log_probs: (frames, vocabulary).

    Returns:
        Tokens (tokens,), and for each the largest probability among its frames.
    """
    probabilities = np.exp(log_probs)
    best = probabilities.argmax(axis=-1)
    highest = np.take_along_axis(probabilities, best[:, None], axis=-1)[:, 0]
    tokens, confidences = [], []
    for token, frames in groupby(range(len(best)), key=best.__getitem__):
        if token != blank:
            tokens.append(token)
            confidences.append(max(highest[i] for i in frames))
    return np.array(tokens, np.int64), np.array(confidences, np.float64)


class _Filling:
    """A sequence with masks, and how many of them a pass fills.

    Attributes:
        tokens: (tokens,) int64.
        passes: how many passes are left.
    """

    def __init__(self, tokens: np.ndarray, unsure: np.ndarray, mask: int, most: int):
        self.tokens = np.where(unsure, mask, tokens)
        self._mask = mask
        count = int(unsure.sum())
        self.passes = min(count, most) if most > 0 else count
        self._each = count // max(self.passes, 1)

    def fill(self, scores: np.ndarray) -> None:
        """Take the surest tokens, in the last pass all, of scores (tokens, V)."""
        self.passes -= 1
        masks = np.flatnonzero(self.tokens == self._mask)
        best = scores[masks].argmax(axis=-1)
        if self.passes:
            highest = scores[masks, best]
            surest = np.argsort(-highest, kind="stable")[: self._each]
            masks, best = masks[surest], best[surest]
        self.tokens[masks] = best


class MaskCTCSearch:
    """Mask-CTC on a batch of utterances.

    Args:
        decoder: the graph of a mask decoder.
        memory: the graph that projects the encoder's output for it.
        ids: of the symbols.
        iterations: most passes over an utterance; 0: as many as masks.
        threshold: tokens of which the CTC is less sure are masked.
        token_list: for the log.
    """

    def __init__(
        self,
        decoder: Session,
        memory: Session,
        ids: MaskCTC,
        iterations: int,
        threshold: float,
        token_list: Sequence[str],
    ):
        self._decoder = decoder
        self._memory = memory
        self._ids = ids
        self._iterations = iterations
        self._threshold = threshold
        self._token_list = token_list
        #: The search itself scores tokens, by the role of its graph.
        self.scorers: Mapping[str, Scorer] = {"mask_decoder": self}
        #: Seconds that the newest call spent, by part.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the token sequence of each utterance, in a list of one.

        As ESPnet's, a result has the mask's id in the place of start and end symbol,
        and no score.

        Args:
            encoded: the encoder's outputs.
            primers: ignored; there is none.
        """
        start = time.perf_counter()
        fillings = [self._masked(encoded, i) for i in range(encoded.utterances)]
        masked = time.perf_counter()
        if self._decoder.graph.batches and self._memory.graph.batches:
            self._fill(encoded, fillings)
        else:
            for i, filling in enumerate(fillings):
                self._fill(encoded.select([i]), [filling])
        self.seconds = dict(ctc=masked - start, decoder=time.perf_counter() - masked)
        mask = self._ids.mask
        return [[Hypothesis([mask, *f.tokens.tolist(), mask], 0)] for f in fillings]

    def _masked(self, encoded: Encoded, utterance: int) -> _Filling:
        log_probs = encoded.of(utterance, "ctc_log_probs")
        tokens, confidences = greedy_with_confidence(log_probs, self._ids.blank)
        unsure = confidences < self._threshold
        self._log("ctc", tokens)
        filling = _Filling(tokens, unsure, self._ids.mask, self._iterations)
        self._log("msk", filling.tokens)
        return filling

    def _fill(self, encoded: Encoded, fillings: Sequence[_Filling]) -> None:
        """Fill every mask; utterances without any more leave the batch."""
        left = [i for i, filling in enumerate(fillings) if filling.passes]
        if not left:
            return
        fillings = [fillings[i] for i in left]
        encoded = encoded.select(left)
        memory = self.project(encoded)
        while fillings:
            scores = self.score([filling.tokens for filling in fillings], memory)
            for filling, rows in zip(fillings, scores):
                filling.fill(rows[: len(filling.tokens)])
                self._log("msk", filling.tokens)
            left = [i for i, filling in enumerate(fillings) if filling.passes]
            if len(left) < len(fillings):
                fillings = [fillings[i] for i in left]
                memory = {name: take(v, left) for name, v in memory.items()}

    def project(self, encoded: Encoded) -> dict[str, Value]:
        """The encoder's output as :meth:`score` reads it, by name."""
        inputs = {name: encoded[name] for name in self._memory.graph.inputs}
        return self._memory.run(inputs, fetch=())

    def score(
        self, sequences: Sequence[np.ndarray], memory: Mapping[str, Value]
    ) -> np.ndarray:
        """Scores (utterances, tokens, vocabulary) for a sequence of each utterance."""
        lengths = np.array([len(tokens) for tokens in sequences])
        feeds = {"tokens": pad(sequences), "tokens_lens": lengths, **memory}
        return to_numpy(self._decoder.run(feeds, ["scores"])["scores"])

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores of each token of a sequence, which the decoder sees as a whole."""
        return self.score([np.array(tokens)], self.project(encoded))[0]

    def _log(self, what: str, tokens: np.ndarray) -> None:
        """The lines that ESPnet logs of a sequence."""
        text = "".join(self._token_list[i] for i in tokens)
        text = text.replace("<mask>", "_").replace("<space>", " ")
        logger.info("%s:%s", what, text)
