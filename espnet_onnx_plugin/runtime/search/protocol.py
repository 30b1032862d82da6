"""A search: what it is given, asks and finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

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


#: The state of a search over a stream. It is plain data, which can be pickled, and
#: never changed: whoever keeps one can go on from there as often as they like.
StreamT = TypeVar("StreamT")


@dataclass(frozen=True, eq=False)
class Piece(Generic[StreamT]):
    """The next part of a stream.

    Attributes:
        state: of the search before it.
        encoder_out: (frames, dim) the new encoder frames; there may be none.
        ctc_log_probs: (frames, vocabulary) of them; None where the model has no CTC.
        is_final: whether the stream ends with them.
    """

    state: StreamT
    encoder_out: np.ndarray
    ctc_log_probs: np.ndarray | None
    is_final: bool


@dataclass(frozen=True, eq=False)
class Found(Generic[StreamT]):
    """Result of a search on a piece of a stream.

    Attributes:
        state: of the search behind it; behind a final piece, that of a new stream.
        hypotheses: what ESPnet's search returns of such a call, best first: of a final
            piece the result; of others what ended in the newest complete block or, if
            the piece completes none, what the call before gave. Often there are none.
    """

    state: StreamT
    hypotheses: Sequence[Hypothesis]


class OnlineSearch(Protocol[StreamT]):
    """Search over streams, whose encoder output comes piece by piece.

    It holds nothing of a stream; any number of streams share one search.
    """

    @property
    def scorers(self) -> Mapping[str, Scorer]:
        """The scorers that are asked, by name."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that the newest call spent, by part."""

    def open(self) -> StreamT:
        """The state of a stream before its first piece."""

    def running(self, state: StreamT) -> list[Sequence[int]]:
        """Tokens of the hypotheses that go on, with the start symbol, best first.

        Every later result begins with one of them.
        """

    def feed(self, pieces: Sequence[Piece[StreamT]]) -> list[Found[StreamT]]:
        """Search on through several streams, each of which gets what it gets alone.

        Those that have a complete block take their steps together, in one call of each
        graph.

        Args:
            pieces: each of another stream.

        Returns:
            What was found in each, in order.

        Raises:
            PluginError: where ESPnet's search breaks down; the states given stay good.
        """
