"""Encoders of streams: speech that comes in parts, each stream with its own state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import pad, to_numpy


class EncoderState(Protocol):
    """All that an encoder has to remember of a stream: plain data of bounded size.

    It is never changed: whoever keeps one can go on from there as often as they like,
    and a pickled one goes on in another process.
    """

    @property
    def feats(self) -> np.ndarray:
        """(feature frames, dim) normalized, those that later frames are made of."""


StateT = TypeVar("StateT", bound=EncoderState)


@dataclass(frozen=True, eq=False)
class Chunk(Generic[StateT]):
    """The next part of a stream.

    Attributes:
        state: of the stream before it.
        feats: (feature frames, dim) float32, normalized; may be empty.
        is_final: whether the utterance ends with it.
    """

    state: StateT
    feats: np.ndarray
    is_final: bool


@dataclass(frozen=True, eq=False)
class EncodedChunk(Generic[StateT]):
    """The new encoder frames of a stream.

    Attributes:
        state: of the stream behind the chunk; behind a final one, that of a new stream.
        encoder_out: (frames, dim), which may be none.
        ctc_log_probs: (frames, vocabulary); None where the model has no CTC.
    """

    state: StateT
    encoder_out: np.ndarray
    ctc_log_probs: np.ndarray | None = None


class StreamEncoder(ABC, Generic[StateT]):
    """The encoder of a bundle, for streams.

    Args:
        bundle: where the graphs lie.
        device: where they run.
    """

    #: The role of the graph that gives the encoder's output.
    role: str

    def __init__(self, bundle: Bundle, device: Device):
        self._normalize = None
        if "stream_normalize" in bundle.manifest.graphs:
            self._normalize = Session(bundle, "stream_normalize", device)

    def normalize(self, feats: np.ndarray) -> np.ndarray:
        """Normalize the features of a chunk as ESPnet does, before it trims them.

        Statistics of an utterance (``utterance_mvn``) are those of the chunk.

        Args:
            feats: (feature frames, dim) float32, as the frontend gives them.
        """
        if self._normalize is None:
            return feats
        feeds = {"feats": feats[None], "feats_lengths": np.array([len(feats)])}
        results = self._normalize.run(feeds, ["normalized"])
        return to_numpy(results["normalized"])[0]

    @abstractmethod
    def start(self) -> StateT:
        """The state before the first chunk."""

    @property
    @abstractmethod
    def usual_chunk(self) -> int:
        """Feature frames of a chunk to check with, of which most give some frames."""

    def gives(self, state: StateT, feats: int) -> bool:
        """Whether so many last feature frames of an utterance give encoder frames."""
        return True

    def turns(self, before: int, count: int, is_final: bool) -> list[slice]:
        """Encoder frames that a search gets at a time.

        Args:
            before: frames of the utterance before these.
            count: how many there are.
            is_final: whether there are no more.
        """
        return [slice(0, count)]

    @abstractmethod
    def feed(self, chunks: Sequence[Chunk[StateT]]) -> list[EncodedChunk[StateT]]:
        """Encode the next chunk of each of several streams.

        Each gets what it gets alone.

        Args:
            chunks: each of another stream.

        Returns:
            The new frames of each, in order.
        """


def run_streams(
    session: Session, rows: Sequence[Mapping[str, np.ndarray] | None]
) -> list[dict[str, np.ndarray] | None]:
    """Run a graph whose every tensor begins with an axis of streams.

    Args:
        session: the graph.
        rows: inputs of each stream without that axis; None for one that does not run.

    Returns:
        The outputs likewise, as long as the longest of them.
    """
    results: list[dict[str, np.ndarray] | None] = [None] * len(rows)
    asked = [i for i, row in enumerate(rows) if row is not None]
    batches = [asked] if session.graph.batches else [[i] for i in asked]
    fetch = [*session.graph.outputs, *(f"next_{s}" for s in session.graph.states)]
    for batch in filter(None, batches):
        together: dict[str, Value] = {}
        for name in rows[batch[0]] or {}:
            arrays = [row[name] for i in batch if (row := rows[i]) is not None]
            together[name] = pad(arrays) if arrays[0].ndim else np.array(arrays)
        outputs = session.run(together, fetch)
        for place, i in enumerate(batch):
            results[i] = {k: to_numpy(v)[place] for k, v in outputs.items()}
    return results
