"""The tasks of ESPnet's recipes, a row each: what exports and decodes their models."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import MaskCTC
from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class Door:
    """A class that decodes bundles, and the command that does it; called as in ESPnet.

    Attributes:
        command: module of espnet_onnx_plugin.bin, and of espnet2.bin.
        module, name: of espnet_onnx_plugin.runtime, and of the class.
        options: without which it takes no bundle of the task.
    """

    command: str
    module: str
    name: str = "Speech2Text"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def load(self) -> type:
        """The class."""
        module = f"espnet_onnx_plugin.runtime.{self.module}"
        return getattr(importlib.import_module(module), self.name)


@dataclass(frozen=True)
class Task:
    """Row of a recipe's driver: everything that there is for its models.

    Attributes:
        name: of the driver, without ``.sh``.
        door: what decodes their bundles.
        exporter: module and class of espnet_onnx_plugin.export.tasks.
        by_kind: doors of the bundles with other kinds of search.
        others: doors for another use of the bundles.
        by_model: other tasks whose models the driver trains too, by ``model`` in their
            ``config.yaml``.
        gives: what is made of an utterance.
        audio: name of the audio that it is made of; empty where it is made of a text.
        reads: texts that some models read beside the audio.
        packed: what ESPnet begins the names of a packed model's files with.
        evaluator: class that compares their bundles, with its module of
            espnet_onnx_plugin.evaluate.
        special_tokens: whether transcripts hold tokens that say how it is spoken:
            language, task, times.
        scores_speech: whether a model can recognize speech that another one made.
        vocoder: whether a model may come with a vocoder.
        overwritten: parts of the training configuration whose settings an inference
            configuration may replace when ESPnet builds the model.
    """

    name: str
    door: Door
    exporter: str
    by_kind: Mapping[type, Door] = field(default_factory=lambda: MappingProxyType({}))
    others: tuple[Door, ...] = ()
    by_model: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    gives: Literal["tokens", "speech", "speakers"] = "tokens"
    audio: str = "speech"
    reads: tuple[str, ...] = ()
    packed: str = ""
    evaluator: str = "recognition.RecognitionEvaluator"
    special_tokens: bool = False
    scores_speech: bool = False
    vocoder: bool = False
    overwritten: tuple[str, ...] = ()

    @property
    def doors(self) -> tuple[Door, ...]:
        """Every door of the task."""
        return (self.door, *self.by_kind.values(), *self.others)


#: Enhancement, and recognition or diarization, in one model.
_JOINT: Mapping[str, Any] = MappingProxyType({"enh_s2t_task": True})

_ROWS = (
    Task(
        "asr",
        Door("asr_inference", "asr"),
        exporter="asr.ASRExporter",
        by_kind={MaskCTC: Door("asr_inference_maskctc", "mask_ctc")},
        others=(
            Door("asr_inference_streaming", "asr_streaming", "Speech2TextStreaming"),
        ),
        packed="asr_",
        scores_speech=True,
    ),
    Task(
        "asr_transducer",  # asr.sh --asr_task asr_transducer
        Door("asr_transducer_inference", "asr_transducer"),
        exporter="asr_transducer.ASRTransducerExporter",
        packed="asr_",
        scores_speech=True,
    ),
    Task(
        "st",
        Door("st_inference", "st"),
        exporter="st.STExporter",
        others=(
            Door("st_inference_streaming", "st_streaming", "Speech2TextStreaming"),
        ),
        packed="st_",
    ),
    Task(
        "slu",
        Door("slu_inference", "slu", "Speech2Understand"),
        exporter="slu.SLUExporter",
        reads=("transcript",),
        packed="slu_",
    ),
    Task(
        "s2t",
        Door("s2t_inference", "s2t"),
        exporter="s2t.S2TExporter",
        others=(Door("s2t_inference_language", "s2t_language", "Speech2Language"),),
        by_model={"espnet_ctc": "s2t_ctc"},  # s2t.sh --s2t_ctc true
        packed="s2t_",
        special_tokens=True,
        scores_speech=True,
    ),
    Task(
        "s2t_ctc",
        Door("s2t_inference_ctc", "s2t_ctc", "Speech2TextGreedySearch"),
        exporter="s2t_ctc.S2TCTCExporter",
        packed="s2t_",
        special_tokens=True,
    ),
    Task(
        "tts",
        Door("tts_inference", "tts", "Text2Speech"),
        exporter="tts.TTSExporter",
        gives="speech",
        audio="",
        evaluator="synthesis.SynthesisEvaluator",
        vocoder=True,
    ),
    Task(
        "svs",  # with svs.sh --svs_task gan_svs too
        Door("svs_inference", "svs", "SingingGenerate"),
        exporter="svs.SVSExporter",
        gives="speech",
        audio="",
        evaluator="synthesis.SynthesisEvaluator",
        vocoder=True,
    ),
    Task(
        "enh",
        Door("enh_inference", "enh", "SeparateSpeech"),
        exporter="enh.EnhExporter",
        others=(
            Door("enh_inference_streaming", "enh_streaming", "SeparateSpeechStreaming"),
        ),
        gives="speech",
        audio="speech_mix",
        evaluator="separation.SeparationEvaluator",
        overwritten=("encoder", "separator", "decoder"),
    ),
    Task(
        "enh_tse",  # enh.sh --is_tse_task true
        Door("enh_tse_inference", "enh_tse", "SeparateSpeech"),
        exporter="enh_tse.TSEExporter",
        gives="speech",
        audio="speech_mix",
        evaluator="separation.SeparationEvaluator",
    ),
    Task(
        "enh_asr",
        Door("asr_inference", "asr", options=_JOINT),
        exporter="enh_asr.EnhASRExporter",
        others=(Door("enh_inference", "enh", "SeparateSpeech", options=_JOINT),),
        packed="enh_s2t_",
        overwritten=("enh_encoder", "enh_separator", "enh_decoder"),
    ),
    Task(
        "diar",
        Door("diar_inference", "diar", "DiarizeSpeech"),
        exporter="diar.DiarExporter",
        gives="speakers",
        evaluator="diarization.DiarizationEvaluator",
    ),
    Task(
        "enh_diar",
        Door("diar_inference", "diar", "DiarizeSpeech", options=_JOINT),
        exporter="enh_diar.EnhDiarExporter",
        gives="speakers",
        evaluator="diarization.DiarizationEvaluator",
    ),
)

TASKS: Mapping[str, Task] = {row.name: row for row in _ROWS}


def find(name: str) -> Task:
    """The row of a task.

    Raises:
        PluginError: if there is none.
    """
    if name not in TASKS:
        raise PluginError(
            f"task '{name}' is not supported (supported: {', '.join(TASKS)})"
        )
    return TASKS[name]


def task_of(bundle: Bundle) -> Task:
    """The row of a bundle's task, see :func:`find`."""
    return find(bundle.manifest.task)


def door_of(bundle: Bundle) -> Door:
    """Find the class that decodes a bundle."""
    task = task_of(bundle)
    return task.by_kind.get(type(bundle.manifest.search), task.door)


def _called(command: str) -> tuple[Task, Door]:
    # The first row that has a command; others need options with it.
    doors = {door.command: (row, door) for row in _ROWS[::-1] for door in row.doors}
    if command not in doors:
        raise PluginError(f"'{command}' is not one of {', '.join(doors)}")
    return doors[command]


def task_called(command: str) -> Task:
    """Find the row whose bundles a command decodes.

    Raises:
        PluginError: if there is no such command.
    """
    return _called(command)[0]


def door_called(command: str) -> Door:
    """Find the class that a command decodes with; see :func:`task_called`."""
    return _called(command)[1]


def open_model(bundle: Bundle, command: str | None = None, **options: Any) -> Any:
    """Open a bundle for decoding, with ESPnet's decoding options.

    Args:
        command: whose class decodes; default: that of :func:`door_of`.
    """
    if command is None:
        door = door_of(bundle)
    else:
        own = (door for door in task_of(bundle).doors if door.command == command)
        door = next(own, door_called(command))
    return door.load()(bundle, **{**options, **door.options})
