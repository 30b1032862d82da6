"""Latency and flicker of streams, read from what the decoding commands leave."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.timing import TIMING
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.recognition.heard import STREAM_FILE, Flicker, Latency


@dataclass(frozen=True)
class Streams:
    """How the words of a test set came.

    Attributes:
        frontend: How the waveform was cut into frames, "exact" or "espnet".
        chunk_seconds: Length of the parts in which audio came; 0: in one.
        first_partial: Median seconds, computation included, from the start of speech to
            the first words, over the sample that was timed; None where none was, or
            nothing was found in it.
        last_word: The same from the end of speech to the last change of the words.
        erased, said: Words that were shown and taken back, and words of the results, of
            all utterances.
    """

    frontend: str
    chunk_seconds: float
    first_partial: float | None
    last_word: float | None
    erased: int
    said: int

    @property
    def flicker(self) -> float:
        """Return the words taken back for each word of the results."""
        return Flicker(self.erased, self.said).rate

    @property
    def chunk(self) -> str:
        """Return the length of the parts, for a reader."""
        return f"{self.chunk_seconds:g}" if self.chunk_seconds else "whole"


@dataclass(frozen=True)
class _Figures:
    """Figures of one stream."""

    frontend: str
    chunk_seconds: float
    latency: Latency
    flicker: Flicker

    @property
    def first_partial(self) -> float | None:
        latency = self.latency
        return _sum(latency.first_partial, latency.first_computation)

    @property
    def last_word(self) -> float | None:
        latency = self.latency
        return _sum(latency.last_word, latency.last_computation)


def _sum(audio: float | None, computation: float | None) -> float | None:
    return None if audio is None or computation is None else audio + computation


def read_streams(directory: Path) -> Streams | None:
    """Read a decode directory, None where nothing was decoded as a stream.

    Raises:
        PluginError: If a line does not hold the figures of a stream.
    """
    streams = _read(directory / STREAM_FILE)
    if not streams:
        return None
    sample = (directory / TIMING).parent / "1best_recog" / STREAM_FILE
    timed = _read(sample).values()
    first = next(iter(streams.values()))  # one command decoded them all
    return Streams(
        frontend=first.frontend,
        chunk_seconds=first.chunk_seconds,
        first_partial=_median(one.first_partial for one in timed),
        last_word=_median(one.last_word for one in timed),
        erased=sum(one.flicker.erased for one in streams.values()),
        said=sum(one.flicker.said for one in streams.values()),
    )


def _read(path: Path) -> Mapping[str, _Figures]:
    if not path.is_file():
        return {}
    figures = {}
    for key, text in read_scp(path).items():
        try:
            row = json.loads(text)
            figures[key] = _Figures(
                row["frontend"],
                row["chunk_seconds"],
                Latency(*(row[name] for name in Latency._fields)),
                Flicker(row["erased"], row["said"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PluginError(
                f"{path}: '{key}' has no figures of a stream ({error!r}): decode it "
                "again"
            ) from error
    return figures


def _median(delays: Iterable[float | None]) -> float | None:
    known = [delay for delay in delays if delay is not None]
    return statistics.median(known) if known else None
