"""A search: what it is given, asks and finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

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


class Stream(Protocol):
    """The state of a search over speech that is still coming in.

    It is plain data: arrays, numbers and dataclasses of them, which can be pickled. A
    search replaces its attributes and never writes into what they hold, so that a
    shallow copy (``copy.copy``) is another stream that can go its own way.
    """

    @property
    def frames(self) -> int:
        """Number of encoder frames that it was fed."""

    @property
    def result(self) -> Sequence[Hypothesis]:
        """What the newest call of :meth:`OnlineSearch.feed` gave."""

    @property
    def over(self) -> bool:
        """Whether it was fed its last frames."""


StreamT = TypeVar("StreamT", bound=Stream)


class OnlineSearch(Protocol[StreamT]):
    """Search over streams, whose encoder output comes piece by piece.

    The searches hold nothing of a stream; any number of streams share one.
    """

    @property
    def scorers(self) -> Mapping[str, Scorer]:
        """The scorers that are asked, by name."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that the newest call spent, by part."""

    def open(self) -> StreamT:
        """A stream before its first frame."""

    def feed(
        self, stream: StreamT, encoded: Encoded, last: bool
    ) -> Sequence[Hypothesis]:
        """Search on through a stream.

        Args:
            stream: what :meth:`open` gave; it is brought forward.
            encoded: the new frames alone, of one utterance: ``encoder_out`` (1, frames,
                dim), ``encoder_out_lens`` (1,) and, where the search asks the CTC,
                ``ctc_log_probs`` (1, frames, vocabulary). There may be none.
            last: whether these are the stream's last frames.

        Returns:
            What ESPnet's search returns of such a call: with the last frames the
            result, best first; before, what ended in the newest block that was complete
            or, if no new one is, the same as before; often nothing.

        Raises:
            PluginError: if the stream is over, or where ESPnet's search breaks down.
        """

    def feed_together(
        self,
        streams: Sequence[StreamT],
        encoded: Sequence[Encoded],
        last: Sequence[bool],
    ) -> list[Sequence[Hypothesis]]:
        """:meth:`feed` several streams, each of which gets what it gets alone.

        Those that have a complete block take their steps together, in one call of each
        graph.
        """
