"""Ends of utterances in a stream, found by the CTC's silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.bundle.typed import option
from espnet_onnx_plugin.errors import PluginError


def seconds(value: str) -> float | None:
    """A number, or none."""
    return None if value.strip().lower() == "none" else float(value)


@dataclass(frozen=True)
class Endpointing:
    """Rules by which an utterance ends, each in seconds; None: it is off.

    They are those of Kaldi (``online2/online-endpoint.h``), with its defaults. Silence
    is a run of encoder frames whose most probable token is the CTC's blank.
    """

    silence_after_speech: float | None = option(
        1.0,
        "seconds of silence behind speech that end an utterance; none: never",
        read=seconds,
    )
    silence_without_speech: float | None = option(
        5.0, "seconds of silence in which nothing was said that end one", read=seconds
    )
    length: float | None = option(20.0, "seconds after which one ends", read=seconds)

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit is not None and not limit > 0:
                raise PluginError(f"{name} {limit} must be above 0")

    @property
    def listens(self) -> bool:
        """Whether a rule goes by silence."""
        return (self.silence_after_speech, self.silence_without_speech) != (None, None)

    def ended(self, activity: Activity, shift: float, length: float) -> str | None:
        """The rule by which an utterance is over, or None.

        Args:
            activity: of the speaker so far.
            shift: seconds of a frame.
            length: seconds of the utterance so far.
        """
        silence = (activity.frames - activity.end) * shift
        rule = "silence_after_speech" if activity.end else "silence_without_speech"
        limit = getattr(self, rule)
        if limit is not None and silence >= limit:
            return rule
        too_long = self.length is not None and length >= self.length
        return "length" if too_long else None


@dataclass(frozen=True)
class Activity:
    """Frames in which somebody speaks.

    Attributes:
        frames: how many there are.
        start: the first one with a token; None: there is none.
        end: the one behind the last with a token; 0: there is none.
    """

    frames: int = 0
    start: int | None = None
    end: int = 0

    def followed(self, log_probs: np.ndarray, blank: int) -> Activity:
        """Activity with more frames.

        Args:
            log_probs: (frames, vocabulary) of the CTC.
            blank: id of the blank.
        """
        spoken = np.flatnonzero(log_probs.argmax(axis=-1) != blank) + self.frames
        frames = self.frames + len(log_probs)
        if not len(spoken):
            return Activity(frames, self.start, self.end)
        first = int(spoken[0]) if self.start is None else self.start
        return Activity(frames, first, int(spoken[-1]) + 1)
