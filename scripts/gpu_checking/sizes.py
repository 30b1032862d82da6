"""Sizes of what is measured: real ones, and tiny ones that show that it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Lengths of a batch's utterances, of the longest one's: what is decoded together is
#: sorted by length, and not all alike.
SPREAD = 0.8


@dataclass(frozen=True)
class Sizes:
    """Sizes of models and inputs.

    Attributes:
        models: Configuration in conf/benchmark of each model.
        utterances: Number of those that are compared with the CPU.
        audio_seconds: Length of the longest utterance of a batch.
        batch: Utterances that are searched together.
        greedy_batch: Utterances that are read off the CTC together.
        long_seconds: Length of OWSM's audio.
        speech_seconds: Lengths of the speech that is synthesized, about.
        repeats: Measured runs, of which the median is taken.
    """

    models: Mapping[str, str]
    utterances: int
    audio_seconds: float
    batch: int
    greedy_batch: int
    long_seconds: float
    speech_seconds: tuple[float, ...]
    repeats: int


FULL = Sizes(
    MappingProxyType(
        {
            "small": "digits_conformer",
            "librispeech": "librispeech_conformer",
            "hifigan": "ljspeech_fastspeech2",
            "vits": "ljspeech_vits",
            "owsm": "owsm_small",
        }
    ),
    utterances=16,
    audio_seconds=10.0,
    batch=32,
    greedy_batch=64,
    long_seconds=30.0,
    speech_seconds=(2.0, 8.0),
    repeats=3,
)
TINY = Sizes(
    MappingProxyType(
        {
            "small": "smoke_sharp",
            "librispeech": "smoke_sharp",
            "hifigan": "smoke_tts",
            "vits": "smoke_tts",
            "owsm": "smoke_s2t",
        }
    ),
    utterances=3,
    audio_seconds=1.0,
    batch=2,
    greedy_batch=3,
    long_seconds=1.0,
    speech_seconds=(0.1,),
    repeats=1,
)
