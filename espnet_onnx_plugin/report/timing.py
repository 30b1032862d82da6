"""Time and memory of decoding, read from the timings of a sample of a test set."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.lists import read_lines

# Where a decode directory's sample was timed, in one process.
TIMING = "onnx_timing/output/timing.jsonl"


@dataclass(frozen=True)
class UtteranceTiming:
    """Cost of one utterance. Seconds; peak memory of the process in MiB, None where
    the system does not tell.

    The time to the first audio is that of speech that is synthesized. The arithmetic is
    a bundle's, as ``runtime.core.arithmetic`` calls it.
    """

    audio_seconds: float
    total_seconds: float
    peak_memory_mb: float | None
    first_audio_seconds: float | None = None
    arithmetic: str | None = None


@dataclass(frozen=True)
class Timing:
    """Timings of a set of utterances: sums, the median time to the first audio."""

    utterances: int
    audio_seconds: float
    total_seconds: float
    peak_memory_mb: float | None
    first_audio_seconds: float | None = None
    arithmetic: str | None = None

    @property
    def rtf(self) -> float:
        """Return the real-time factor: decoding time over the audio's length."""
        return self.total_seconds / self.audio_seconds


def read_timings(path: Path) -> dict[str, UtteranceTiming]:
    """Return timings by utterance, none where the test set was not timed.

    Raises:
        PluginError: If a line is not a timing, or an utterance has two.
    """
    timings: dict[str, UtteranceTiming] = {}
    if not path.is_file():
        return timings
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
            key = row["key"]
            timing = UtteranceTiming(
                row["audio_seconds"],
                row["total_seconds"],
                row["peak_memory_mb"],
                row.get("first_audio_seconds"),
                row.get("arithmetic"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PluginError(f"{path}:{number}: not a timing: {error!r}") from error
        if key in timings:
            raise PluginError(f"{path}:{number}: a second timing for '{key}'")
        timings[key] = timing
    return timings


def summarize(timings: Mapping[str, UtteranceTiming]) -> Timing | None:
    """Return the timing of all utterances together, None where there are none."""
    rows = list(timings.values())
    if not rows:
        return None
    first = [t.first_audio_seconds for t in rows]
    memory = [t.peak_memory_mb for t in rows]
    return Timing(
        utterances=len(rows),
        audio_seconds=math.fsum(t.audio_seconds for t in rows),
        total_seconds=math.fsum(t.total_seconds for t in rows),
        peak_memory_mb=None if None in memory else max(memory),
        first_audio_seconds=None if None in first else statistics.median(first),
        arithmetic=rows[0].arithmetic,  # one process decoded them all
    )


def speed_up(
    timings: Mapping[str, UtteranceTiming], base: Mapping[str, UtteranceTiming]
) -> float | None:
    """Return the base's real-time factor over this one's, None for other utterances."""
    if not timings or timings.keys() != base.keys():
        return None
    return summarize(base).rtf / summarize(timings).rtf
