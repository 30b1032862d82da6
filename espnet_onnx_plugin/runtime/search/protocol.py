"""A search: what it is given, asks and finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.ctc_align import Span

#: The tokens that the hypotheses of each utterance begin with, at least one.
Primers = Sequence[Sequence[int]]


class Hypothesis(NamedTuple):
    """A result, with the attributes of ESPnet's class of that name.

    Attributes:
        yseq: token ids with the start and end symbols.
        score: the total.
        scores: unweighted sums by scorer.
        states: empty; kept because ESPnet's has it.
        hs: what the decoder's output layer read in each step, each (dim,); empty unless
            the search is told to return it.
        times, words: of the tokens and of the words, where they were asked for.
    """

    yseq: Sequence[int]
    score: float = 0.0
    scores: Mapping[str, float] = {}
    states: Mapping[str, Any] = {}
    hs: Sequence[np.ndarray] = ()
    times: Sequence[Span] = ()
    words: Sequence[Span] = ()


class Scorer(Protocol):
    """A part of the model that scores tokens."""

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores for each token of a sequence, (tokens, vocabulary).

        Args:
            encoded: the encoder's outputs for one utterance.
            tokens: the sequence.
        """


class Search(Protocol):
    """Search over a batch of whole utterances."""

    @property
    def scorers(self) -> Mapping[str, Scorer]:
        """The scorers that are asked, by name."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that the newest call spent, by part."""

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the hypotheses of each utterance, best first.

        Args:
            encoded: the encoder's outputs.
            primers: the tokens that the hypotheses of each utterance begin with, for
                searches that know of any; default: those of its configuration.
        """
