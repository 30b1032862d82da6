"""The language of speech, by the first step of a decoder."""

from __future__ import annotations

import time

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer


class LanguageSearch:
    """The decoder's first step, over the languages alone.

    Args:
        decoder: scorer of the decoder.
        sos: the start symbol.
        first, last: ids of the first and the last language.
    """

    def __init__(self, decoder: FullScorer, sos: int, first: int, last: int):
        self._sos = sos
        self._first = first
        self._end = last + 1
        #: The decoder, by name.
        self.scorers = {"decoder": decoder}
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the languages of each utterance, most probable first.

        Args:
            encoded: the encoder's outputs.
            primers: ignored; a hypothesis is one token.

        Returns:
            Every language as a hypothesis of its token, whose score is its probability
            among them.
        """
        begin = time.perf_counter()
        decoder = self.scorers["decoder"]
        state = decoder.start(encoded, [[self._sos]] * encoded.utterances)
        tokens = np.full((encoded.utterances, 1), self._sos)
        scores, _ = decoder.score(tokens, np.zeros_like(tokens), state)
        self.seconds = {"decoder": time.perf_counter() - begin}
        scores = scores[:, 0, self._first : self._end]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return [
            [
                Hypothesis([self._first + int(i)], float(row[i]))
                for i in np.argsort(-row, kind="stable")
            ]
            for row in odds / odds.sum(axis=1, keepdims=True)
        ]
