"""Data of a check, as options of bin.optimize and bin.quantize.

A class for each kind of task and, derived from it, what quantization asks for. The
kind's evaluator names the first and reads both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NewType

from espnet_onnx_plugin.bundle.typed import option

#: How many of something, 1 or more: a check of none would find all well.
Count = NewType("Count", int)

#: Path, name and type of an input, as ESPnet's commands take it.
DataFile = tuple[str, str, str]


@dataclass(frozen=True)
class DataOptions:
    """Options that give data to a kind of task.

    Attributes:
        does: verb for the models of these tasks, in messages.
        instead: the data and the option that gives them, likewise.
        misplaced: message by option, for one that is given to a model of another kind,
            of which it has the ``task``, ``does`` and ``instead``.
    """

    does: ClassVar[str]
    instead: ClassVar[str]
    misplaced: ClassVar[Mapping[str, str]]


@dataclass(frozen=True)
class AudioOptions(DataOptions):
    """Audio that is recognized."""

    calibration_scp: str | None = option(
        None,
        "SCP,TYPE of audio for the check, e.g. dump/raw/dev/wav.scp,sound",
    )
    calibration_utterances: Count = option(10, "how many of them, spread over the file")
    calibration_transcript: Path | None = option(
        None,
        "what was said in it (Kaldi's text), for a model that reads transcripts",
    )
    calibration_text: Sequence[Path] = ()

    does = "recognizes"
    instead = "the audio as --calibration_scp"
    misplaced = dict.fromkeys(
        ("calibration_scp", "calibration_transcript"),
        "a model of task {task} {does}: give {instead} in the place of "
        "--calibration_scp and --calibration_transcript",
    )


@dataclass(frozen=True)
class ScoredAudioOptions(AudioOptions):
    """Audio, and transcripts for the error rate."""

    calibration_utterances: Count = option(
        200, "how many of them, spread over the file"
    )
    calibration_text: Sequence[Path] = option(
        (),
        "transcripts of --calibration_scp (Kaldi's text), for the error rate; with "
        "several speakers a file for each",
        command=[],
    )

    misplaced = {
        **AudioOptions.misplaced,
        "calibration_text": "--calibration_text is not for a model that {does}",
    }


@dataclass(frozen=True)
class InputOptions(DataOptions):
    """Inputs of models that make waveforms: texts, songs or mixtures."""

    data_path_and_name_and_type: Sequence[DataFile] | None = option(
        None,
        "of models that make waveforms, in the place of --calibration_scp: texts, "
        "songs or mixtures and what belongs to them, as ESPnet's commands take them",
    )
    calibration_texts: Count = option(10, "how many of these, spread over the file")
    asr_model_dir: Path | None = None

    does = "makes waveforms"
    instead = "its inputs as --data_path_and_name_and_type"
    misplaced = {
        "data_path_and_name_and_type": (
            "--data_path_and_name_and_type is for models that make waveforms; give "
            "{instead}"
        )
    }


@dataclass(frozen=True)
class ScoredInputOptions(InputOptions):
    """Inputs, and an ASR model for the character error rate."""

    asr_model_dir: Path | None = option(
        None, "bundle of an ASR model that scores speech"
    )

    misplaced = {
        **InputOptions.misplaced,
        "asr_model_dir": "--asr_model_dir is for a model of task tts, which speaks",
    }


#: Options of bin.optimize and of bin.quantize, of every kind of task.
COMPARED: Sequence[type[DataOptions]] = (AudioOptions, InputOptions)
SCORED: Sequence[type[DataOptions]] = (ScoredAudioOptions, ScoredInputOptions)
