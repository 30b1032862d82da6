"""Evaluation of bundles that diarize, alone or with separation.

Who is active when, and what is separated, is held against what the fp32 bundle says and
makes: the share of equal decisions, and the scale-invariant signal-to-noise ratio.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import DiarizationBudget
from espnet_onnx_plugin.evaluate.data_options import AudioOptions
from espnet_onnx_plugin.evaluate.evaluator import (
    Baseline,
    Evaluator,
    Quality,
    open_on,
)
from espnet_onnx_plugin.evaluate.graph_pairs import GraphPairs
from espnet_onnx_plugin.evaluate.graphs import (
    WAVEFORM_TOLERANCE,
    Comparison,
    difference,
    not_among,
)
from espnet_onnx_plugin.evaluate.recognition import noise
from espnet_onnx_plugin.evaluate.recorder import CALIBRATED, InputRecorder
from espnet_onnx_plugin.evaluate.speed import Seconds, time_in_turns
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.diar import Diarized
from espnet_onnx_plugin.runtime.diarization.diarizer import diarization_of
from espnet_onnx_plugin.runtime.enhancement.inputs import made_up
from espnet_onnx_plugin.runtime.enhancement.segments import si_snr
from espnet_onnx_plugin.runtime.io.data import Source, iterate
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.lists import spread
from espnet_onnx_plugin.runtime.io.progress import progress
from espnet_onnx_plugin.tasks import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiarizationQuality(Quality[DiarizationBudget]):
    """Diarized recordings in figures.

    Attributes:
        same_speakers: recordings in which there are as many speakers.
        activity_agreement: share of the decisions, of each speaker at each frame, that
            are fp32's; those of a speaker that only one has found are not.
        separation_agreement: mean SI-SNR in dB against the waveforms of fp32, where
            there are as many; None: nothing is separated.
    """

    same_speakers: int
    activity_agreement: float
    separation_agreement: float | None = None

    def within(self, budget: DiarizationBudget) -> bool:
        """Whether a budget holds."""
        separation = self.separation_agreement
        return self.activity_agreement >= budget.min_activity_agreement - 1e-9 and (
            separation is None or separation >= budget.min_separation_agreement
        )

    def __str__(self) -> str:
        said = (
            f"{self.same_speakers} of {self.utterances} recordings with as many "
            f"speakers, {self.activity_agreement:.4f} of the activities"
        )
        if self.separation_agreement is not None:
            said += f", SI-SNR to fp32 {self.separation_agreement:.3f} dB"
        return said


@dataclass(frozen=True)
class DiarizationEvaluator(Evaluator[DiarizationBudget]):
    """Recordings, and the options by which they are diarized."""

    source: Source | None = None

    data_class = AudioOptions
    budget_class = DiarizationBudget
    option = "--calibration_scp"
    made_up = "made-up"
    only_faster = True

    @classmethod
    def from_options(
        cls, task: Task, data: AudioOptions, options: Mapping[str, Any] | None = None
    ) -> DiarizationEvaluator:
        """Make the evaluator of a command's options."""
        for name in ("calibration_transcript", "calibration_text"):
            if getattr(data, name):
                raise PluginError(f"--{name} is for models that recognize speech")
        if not data.calibration_scp:
            return cls(options=options)
        source = Source.parse(data.calibration_scp, data.calibration_utterances)
        return cls(source, options)

    def as_dict(self) -> dict[str, Any] | None:
        """For the manifest: what decides the measures."""
        if self.source is None:
            return None
        data = [(self.source.path, self.source.type)]
        return dict(
            digest=InputDigests(data).of_all(self.source.limit),
            scp=str(self.source.path),
            type=self.source.type,
            limit=self.source.limit,
            options=self.options and dict(self.options),
        )

    def recordings(self, bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
        """The data, or made-up recordings."""
        if self.source is not None:
            keys = spread(list(self.source.entries()), self.source.limit)
            for key, audio in iterate(self.source, keys):
                yield key, audio.array
        elif bundle.manifest.enhancement is not None:
            for what, mixture in made_up(bundle.manifest.enhancement):
                yield what, mixture.speech_mix
        else:
            for what, array, _ in noise(bundle.manifest):
                yield what, array

    def compare(self, reference: Bundle, other: Bundle, device: Device) -> Comparison:
        """Diarize with two bundles, for every number of speakers that is separated."""
        graphs = GraphPairs(reference, other, device)
        watched = replace(device, watch=graphs.watch)
        pairs = [
            (open_on(watched, reference, **options), open_on(device, other, **options))
            for options in _given_numbers(reference)
        ]
        count = identical = 0
        for key, speech in self.recordings(reference):
            logger.info("comparing on %s", key)
            graphs.calls.clear()
            both = [[model.diarize(speech) for model in pair] for pair in pairs]
            count += 1
            identical += all(_is_same(made, expected) for expected, made in both)
        left_out = not_among(reference, graphs.differences)
        return Comparison(count, self.kind, identical, graphs.differences, left_out)

    def run(self, model: Bundle, device: Device) -> DiarizationBaseline:
        """Diarize with the fp32 bundle."""
        device = replace(device, emulate=True)
        numbers = _given_numbers(model)
        options = numbers[-1] if self.options is None else dict(self.options)
        speech = dict(self.recordings(model))
        recorder = InputRecorder(model)
        watched = replace(device, watch=recorder.record)
        others = [open_on(watched, model, **number) for number in numbers]
        opened, made = open_on(watched, model, **options), {}
        for key in progress(speech, len(speech)):
            try:
                made[key] = opened.diarize(speech[key])
            except PluginError as e:
                logger.warning("%s is left out: %s", key, e)
                continue
            if len(made) <= CALIBRATED:
                for each in others:  # graphs of other numbers have ranges too
                    each.diarize(speech[key])
            recorder.next_utterance()
        if not made:
            raise PluginError(
                "none of the recordings can be diarized: give --num_spk in "
                "--inference_args"
            )
        return DiarizationBaseline(
            model=model,
            device=device,
            options=options,
            feeds=recorder.by_role,
            speech=speech,
            made=made,
        )


@dataclass(frozen=True)
class DiarizationBaseline(Baseline[DiarizationBudget]):
    """Speakers of the fp32 bundle, which those of others are held against.

    Attributes:
        speech: the recordings, by their ids.
        made: what it says and makes of those that it can diarize.
    """

    speech: Mapping[str, np.ndarray]
    made: Mapping[str, Diarized]

    def measure(self, bundle: Bundle) -> DiarizationQuality:
        """Diarize the same with another bundle, and compare."""
        model = self.open(bundle)
        identical = same = agreed = decisions = 0
        ratios: list[float] = []
        for key, expected in self.made.items():
            try:
                made = model.diarize(self.speech[key])
            except PluginError:  # of a number of speakers that cannot be separated
                decisions += expected.activities.size
                continue
            identical += np.array_equal(made.activities, expected.activities)
            equal, all_of_them = same_decisions(made.activities, expected.activities)
            agreed, decisions = agreed + equal, decisions + all_of_them
            if made.activities.shape != expected.activities.shape:
                continue
            same += 1
            if made.waves is not None and expected.waves is not None:
                pairs = zip(expected.waves, made.waves)
                ratios += [si_snr(reference, wave) for reference, wave in pairs]
        separates = any(one.waves is not None for one in self.made.values())
        worst = -np.inf if separates else None
        return DiarizationQuality(
            utterances=len(self.made),
            identical=identical,
            same_speakers=same,
            activity_agreement=agreed / decisions,
            separation_agreement=float(np.mean(ratios)) if ratios else worst,
        )

    def time(self, bundle: Bundle) -> Seconds:
        """Seconds of the fp32 bundle and another."""
        speech = (self.speech[key] for key in self.made)
        return time_in_turns(self.open_both(bundle), speech, _seconds)


def _given_numbers(bundle: Bundle) -> list[dict[str, Any]]:
    """Options of a check, such that together every graph of a bundle is used."""
    fixed = diarization_of(bundle.manifest).num_spk
    if fixed is not None:
        return [dict(num_spk=fixed)]
    if bundle.manifest.enhancement is None:
        return [dict(num_spk=2)]
    most = bundle.manifest.enhancement.outputs
    return [dict(num_spk=number) for number in range(1, most + 1)]


def _is_same(made: Diarized, expected: Diarized) -> bool:
    """Whether activities are the same decisions, and waveforms the same."""
    equal, decisions = same_decisions(made.activities, expected.activities)
    if made.waves is None or expected.waves is None:
        return equal == decisions
    figure = difference(made.waves, expected.waves)
    return equal == decisions and figure <= WAVEFORM_TOLERANCE


def same_decisions(made: np.ndarray, expected: np.ndarray) -> tuple[int, int]:
    """How many decisions of two models are equal, and how many there are.

    Of a speaker that only one has found, none is.

    Args:
        made, expected: probabilities (frames, speakers).
    """
    both = min(made.shape[1], expected.shape[1])
    equal = (made[:, :both] > 0.5) == (expected[:, :both] > 0.5)
    return int(equal.sum()), max(made.size, expected.size)


def _seconds(model: Any, speech: np.ndarray) -> dict[str, float]:
    """Seconds of one recording."""
    start = time.perf_counter()
    model.diarize(speech)
    return {"diarization": time.perf_counter() - start}
