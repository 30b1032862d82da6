"""The engine of streams: frontend, encoder and search, each from where it stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from espnet_onnx_plugin.runtime.core.stream_encoder import (
    Chunk,
    EncodedChunk,
    EncoderState,
    StreamEncoder,
)
from espnet_onnx_plugin.runtime.core.stream_features import Held, StreamFrontend
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, OnlineSearch, Piece

SearchStateT = TypeVar("SearchStateT")


@dataclass(frozen=True, eq=False)
class StreamState(Generic[SearchStateT]):
    """All that recognition remembers of a stream.

    It is plain data and never changed: whoever keeps one can go on from there as often
    as they like, and a pickled one goes on in another process.

    Attributes:
        held: of the frontend.
        encoder: of the encoder.
        search: of the search.
        frames: how many the encoder has given.
    """

    held: Held
    encoder: EncoderState
    search: SearchStateT
    frames: int = 0


@dataclass(frozen=True, eq=False)
class Part(Generic[SearchStateT]):
    """The next part of a stream.

    Attributes:
        state: of the stream before it.
        samples: (samples,) float32, or (frames, dim) where there is no frontend; there
            may be none.
        is_final: whether the utterance ends with it.
    """

    state: StreamState[SearchStateT]
    samples: np.ndarray
    is_final: bool


@dataclass(frozen=True, eq=False)
class Progress(Generic[SearchStateT]):
    """The outcome of a part.

    Attributes:
        state: of the stream behind it; behind a final part, that of a new stream.
        hypotheses: what ESPnet gives: of a final part the result, else what ended in
            the newest block, often nothing.
        ctc_log_probs: (frames, vocabulary) of the new encoder frames; None where the
            model has no CTC.
    """

    state: StreamState[SearchStateT]
    hypotheses: Sequence[Hypothesis]
    ctc_log_probs: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Fed(Generic[SearchStateT]):
    """A part of an utterance that was recognized.

    Attributes:
        utterance: its number.
        part: what was fed.
        made: the outcome.
        seconds: its share of the time that it took with those of other utterances.
    """

    utterance: int
    part: Part[SearchStateT]
    made: Progress[SearchStateT]
    seconds: float


class StreamEngine(Generic[SearchStateT]):
    """Runs the parts of several streams through a model together.

    Args:
        frontend: makes features, normalized unless ``exact``.
        encoder: encodes them.
        search: searches what it gives.
        exact: whether a stream has the same outcome however it is cut: then the search
            gets the frames block by block, not call by call, as its limits go by the
            frames that are there.
        part: samples of the parts that a :class:`.Stream` is cut into, from its start
            on, however it comes in; None: it is recognized as it comes.
    """

    def __init__(
        self,
        frontend: StreamFrontend,
        encoder: StreamEncoder[Any],
        search: OnlineSearch[SearchStateT],
        exact: bool,
        part: int | None = None,
    ):
        self.frontend = frontend
        self.encoder = encoder
        self.search = search
        self.exact = exact
        self.part = part
        #: Seconds that the newest call spent, by part.
        self.seconds: dict[str, float] = {}

    def start(self) -> StreamState[SearchStateT]:
        """The state before the first part."""
        return StreamState(
            self.frontend.open(), self.encoder.start(), self.search.open()
        )

    def feed(self, parts: Sequence[Part[SearchStateT]]) -> list[Progress[SearchStateT]]:
        """Recognize the next part of each of several streams.

        An utterance that ends before it is as long as the encoder's input layer is wide
        has nothing said in it; ESPnet fails on it.

        Args:
            parts: each of another stream.
        """
        begin = time.perf_counter()
        fed = [
            self.frontend.feed(part.state.held, part.samples, part.is_final)
            for part in parts
        ]
        frontend = time.perf_counter()
        chunks: dict[int, Chunk[Any]] = {}
        for i, (part, (feats, _)) in enumerate(zip(parts, fed)):
            before = part.state.encoder
            if feats is None:
                continue
            if self.exact and len(feats):
                feats = self.encoder.normalize(feats)
            if part.is_final and not len(feats):
                feats = before.feats[:0]
            if not part.is_final or self.encoder.gives(before, len(feats)):
                chunks[i] = Chunk(before, feats, part.is_final)
        encoded = dict(zip(chunks, self.encoder.feed(list(chunks.values()))))
        encoder = time.perf_counter()
        self.seconds = dict(frontend=frontend - begin, encoder=encoder - frontend)
        found = self._search(parts, encoded)
        results: list[Progress[SearchStateT]] = []
        for i, (part, (_, held)) in enumerate(zip(parts, fed)):
            search, hypotheses = found.get(i, (part.state.search, ()))
            made = encoded.get(i)
            if part.is_final:
                state = self.start()
            elif made is None:
                state = replace(part.state, held=held)
            else:
                frames = part.state.frames + len(made.encoder_out)
                state = StreamState(held, made.state, search, frames)
            scores = None if made is None else made.ctc_log_probs
            results.append(Progress(state, hypotheses, scores))
        return results

    def _search(
        self,
        parts: Sequence[Part[SearchStateT]],
        encoded: Mapping[int, EncodedChunk[Any]],
    ) -> dict[int, tuple[SearchStateT, Sequence[Hypothesis]]]:
        """State of the search and hypotheses of the parts that were encoded."""
        found: dict[int, tuple[SearchStateT, Sequence[Hypothesis]]] = {
            i: (parts[i].state.search, ()) for i in encoded
        }
        waiting = {
            i: self.encoder.turns(
                parts[i].state.frames, len(made.encoder_out), parts[i].is_final
            )
            for i, made in encoded.items()
        }
        while waiting := {i: turns for i, turns in waiting.items() if turns}:
            pieces = []
            for i, turns in waiting.items():
                turn, made = turns.pop(0), encoded[i]
                scores = made.ctc_log_probs
                pieces.append(
                    Piece(
                        found[i][0],
                        made.encoder_out[turn],
                        None if scores is None else scores[turn],
                        parts[i].is_final and not turns,
                    )
                )
            for i, one in zip(waiting, self.search.feed(pieces)):
                found[i] = one.state, one.hypotheses
            for name, seconds in self.search.seconds.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        return found

    def whole(
        self, utterances: Sequence[np.ndarray], ends: Sequence[Sequence[int]]
    ) -> Iterator[Fed[SearchStateT]]:
        """Recognize whole utterances part by part, as streams of their own.

        Each gets what it gets alone.

        Args:
            utterances: each (samples,), or (frames, dim) where there is no frontend.
            ends: where the parts of each end, the last one at its own end.

        Yields:
            Each part when it has been recognized.
        """
        spent: Counter[str] = Counter()
        states = [self.start() for _ in utterances]
        for number in range(max(map(len, ends), default=0)):
            left = [i for i, own in enumerate(ends) if number < len(own)]
            parts = []
            for i in left:
                first = ends[i][number - 1] if number else 0
                samples = utterances[i][first : ends[i][number]]
                parts.append(Part(states[i], samples, number + 1 == len(ends[i])))
            start = time.perf_counter()
            fed = self.feed(parts)
            share = (time.perf_counter() - start) / len(parts)
            spent.update(self.seconds)
            for i, part, made in zip(left, parts, fed):
                states[i] = made.state
                yield Fed(i, part, made, share)
        self.seconds = dict(spent)


def ends_of(length: int, size: int) -> list[int]:
    """Ends of the parts of a size in which ESPnet's commands feed an utterance.

    Behind the last whole part is one of what is left, which may be nothing.
    """
    return [*range(size, length + 1, size), length]
