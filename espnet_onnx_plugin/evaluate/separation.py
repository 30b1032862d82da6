"""Evaluation of bundles that enhance, separate or extract speech.

Speech is held against the clean speech of the data where they have it, and against what
fp32 makes where not, by the scale-invariant signal-to-noise ratio (SI-SNR) and the
short-time objective intelligibility (STOI).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import SeparationBudget
from espnet_onnx_plugin.evaluate.data_options import DataFile, InputOptions
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
from espnet_onnx_plugin.evaluate.recorder import CALIBRATED, InputRecorder
from espnet_onnx_plugin.evaluate.speed import Seconds, time_in_turns
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming
from espnet_onnx_plugin.runtime.enhancement.enhancer import enhancement_of
from espnet_onnx_plugin.runtime.enhancement.inputs import Mixtures, made_up
from espnet_onnx_plugin.runtime.enhancement.segments import best_order, si_snr
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.lists import spread
from espnet_onnx_plugin.runtime.io.progress import progress
from espnet_onnx_plugin.tasks import Task

logger = logging.getLogger(__name__)

#: Sampling rate of data that do not say theirs.
RATE = 16000

#: Names of the clean speech of each speaker, as ESPnet's training data have them.
REFERENCE = "speech_ref"

#: Command that separates streams.
STREAMING = "enh_inference_streaming"

#: Waveforms (speakers, samples).
Waves = np.ndarray


@dataclass(frozen=True)
class Heard:
    """Arguments of a model for one mixture, and the clean speech in it.

    Attributes:
        arguments: by name.
        references: (samples,) of each speaker; none where the data have none.
    """

    arguments: Mapping[str, Any]
    references: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class MixtureData:
    """Mixtures, what else a model reads, and clean speech: training's inputs.

    Attributes:
        data: (path, name, type) of each.
        limit: how many mixtures a check takes, spread over the file.
    """

    data: Sequence[DataFile]
    limit: int

    def read(self, bundle: Bundle) -> Iterator[tuple[str, Heard]]:
        """The mixtures that are checked, by their ids.

        Raises:
            PluginError: if something is missing or cannot be read.
        """
        described = enhancement_of(bundle.manifest)
        clean = {
            n: (path, kind) for path, n, kind in self.data if n.startswith(REFERENCE)
        }
        sources = [Source(Path(p), kind) for _, (p, kind) in sorted(clean.items())]
        if sources and len(sources) != described.outputs:
            raise PluginError(
                f"the model has {described.outputs} output(s), and there is clean "
                f"speech of {len(sources)}: give {REFERENCE}1 to "
                f"{REFERENCE}{described.outputs}, or none"
            )
        mixtures = Mixtures([entry for entry in self.data if entry[1] not in clean])
        mixtures.require(described)
        entries = [source.entries() for source in sources]
        for key in spread(mixtures.keys, self.limit):
            mixture = mixtures.of(key, described)
            references = []
            for source, table in zip(sources, entries):
                if key not in table:
                    raise PluginError(f"utterance '{key}' is not in {source.path}")
                wave = source.read(key, table[key]).array
                wave = wave if wave.ndim == 1 else wave[:, described.ref_channel]
                references.append(wave[: len(mixture.speech_mix)].astype(np.float32))
            fs = mixture.fs or mixture.rate or RATE
            yield key, Heard({**mixture.arguments(), "fs": fs}, references)


@dataclass(frozen=True)
class SeparationQuality(Quality[SeparationBudget]):
    """Enhanced speech in figures; None where nothing could be measured.

    Attributes:
        si_snr_fp32, si_snr: means in dB against the clean speech.
        stoi_fp32, stoi: likewise, from 0 to 1.
        agreement: mean SI-SNR in dB against the speech of fp32.
    """

    si_snr_fp32: float | None = None
    si_snr: float | None = None
    stoi_fp32: float | None = None
    stoi: float | None = None
    agreement: float | None = None

    def within(self, budget: SeparationBudget) -> bool:
        """Whether a budget holds."""
        if self.si_snr is None or self.si_snr_fp32 is None:
            return self.agreement is not None and self.agreement >= budget.min_agreement
        fallen = self.si_snr_fp32 - self.si_snr
        less = (self.stoi_fp32 or 0.0) - (self.stoi or 0.0)
        # An allowance of 0.1 is not exceeded by 0.1, whatever the rounding.
        return (
            fallen <= budget.max_si_snr_decrease + 1e-9
            and less <= budget.max_stoi_decrease + 1e-9
        )

    def __str__(self) -> str:
        figures = {
            "SI-SNR of fp32": (self.si_snr_fp32, " dB"),
            "SI-SNR": (self.si_snr, " dB"),
            "STOI of fp32": (self.stoi_fp32, ""),
            "STOI": (self.stoi, ""),
            "SI-SNR to fp32": (self.agreement, " dB"),
        }
        known = [f"{n} {v:.3f}{u}" for n, (v, u) in figures.items() if v is not None]
        return ", ".join(known) or "nothing that could be measured"


@dataclass(frozen=True)
class SeparationEvaluator(Evaluator[SeparationBudget]):
    """Mixtures, and the options by which they are separated."""

    source: MixtureData | None = None

    data_class = InputOptions
    budget_class = SeparationBudget
    option = "--data_path_and_name_and_type"
    made_up = "made-up"
    only_faster = True

    @classmethod
    def from_options(
        cls, task: Task, data: InputOptions, options: Mapping[str, Any] | None = None
    ) -> SeparationEvaluator:
        """Make the evaluator of a command's options."""
        if data.asr_model_dir is not None:
            raise PluginError(
                f"--asr_model_dir is for models that speak, not for task {task.name}"
            )
        files = data.data_path_and_name_and_type
        if files is None:
            return cls(options=options)
        return cls(MixtureData(files, data.calibration_texts), options)

    def as_dict(self) -> dict[str, Any] | None:
        """For the manifest: what decides the measures."""
        if self.source is None:
            return None
        data = [(path, kind) for path, _, kind in self.source.data]
        return dict(
            digest=InputDigests(data).of_all(self.source.limit),
            data=[list(entry) for entry in self.source.data],
            limit=self.source.limit,
            options=self.options and dict(self.options),
        )

    def mixtures(self, bundle: Bundle) -> Iterator[tuple[str, Heard]]:
        """The data, or made-up mixtures."""
        if self.source is not None:
            yield from self.source.read(bundle)
            return
        for what, mixture in made_up(enhancement_of(bundle.manifest)):
            yield what, Heard({**mixture.arguments(), "fs": RATE})

    def compare(self, reference: Bundle, other: Bundle, device: Device) -> Comparison:
        """Separate with two bundles."""
        graphs = GraphPairs(reference, other, device)
        watched = replace(device, watch=graphs.watch)
        left, right = open_on(watched, reference), open_on(device, other)
        streamed = _open_streams(watched, reference)
        count = identical = 0
        for key, heard in self.mixtures(reference):
            logger.info("comparing on %s", key)
            graphs.calls.clear()
            expected, made = (np.stack(m(**heard.arguments)) for m in (left, right))
            if streamed is not None:
                streamed.simulate(heard.arguments["speech_mix"])
            count += 1
            identical += difference(made, expected) <= WAVEFORM_TOLERANCE
        left_out = not_among(reference, graphs.differences)
        return Comparison(count, self.kind, identical, graphs.differences, left_out)

    def run(self, model: Bundle, device: Device) -> SeparationBaseline:
        """Separate with the fp32 bundle."""
        options = dict(self.options or {})
        heard = dict(self.mixtures(model))
        recorder = InputRecorder(model)
        watched = replace(device, watch=recorder.record)
        streamed = _open_streams(watched, model)
        opened = open_on(watched, model, **options)
        made = _separate(opened, heard, recorder, streamed)
        baseline = SeparationBaseline(
            model=model,
            device=device,
            options=options,
            feeds=recorder.by_role,
            heard=heard,
            made=made,
        )
        return replace(baseline, scores=baseline.score(made))


@dataclass(frozen=True)
class Scores:
    """Means over utterances and speakers; None where there is no clean speech."""

    si_snr: float | None = None
    stoi: float | None = None


@dataclass(frozen=True)
class SeparationBaseline(Baseline[SeparationBudget]):
    """Speech of the fp32 bundle, which that of others is held against.

    Attributes:
        heard: the mixtures, by their ids.
        made: waveforms of each.
        scores: of these.
    """

    heard: Mapping[str, Heard]
    made: Mapping[str, Waves]
    scores: Scores = Scores()

    def measure(self, bundle: Bundle) -> SeparationQuality:
        """Separate the same with another bundle, and measure its speech."""
        made = _separate(self.open(bundle), self.heard)
        scores = self.score(made)
        agreements = [
            si_snr(expected, ours)
            for key, waves in made.items()
            for expected, ours in zip(self.made[key], waves)
        ]
        same = [np.array_equal(waves, self.made[key]) for key, waves in made.items()]
        return SeparationQuality(
            utterances=len(made),
            identical=sum(same),
            si_snr_fp32=self.scores.si_snr,
            si_snr=scores.si_snr,
            stoi_fp32=self.scores.stoi,
            stoi=scores.stoi,
            agreement=float(np.mean(agreements)),
        )

    def time(self, bundle: Bundle) -> Seconds:
        """Seconds of the fp32 bundle and another."""
        return time_in_turns(self.open_both(bundle), self.heard.values(), _seconds)

    @property
    def _extracts(self) -> bool:
        """Whether who is to be heard is given, so that outputs have their order."""
        return enhancement_of(self.model.manifest).enrollment is not None

    def score(self, made: Mapping[str, Waves]) -> Scores:
        """Measure waveforms against the clean speech."""
        ratios, intelligible = [], []
        for key, waves in made.items():
            heard = self.heard[key]
            if not heard.references:
                return Scores()
            stoi = import_package("pystoi", "the budget of enhanced speech", "pystoi")
            references = np.stack(heard.references)
            if not self._extracts:
                waves = waves[best_order(references, waves)]
            for reference, wave in zip(references, waves):
                ratios.append(si_snr(reference, wave))
                rate = heard.arguments["fs"]
                intelligible.append(stoi.stoi(reference, wave, fs_sig=rate))
        return Scores(float(np.mean(ratios)), float(np.mean(intelligible)))


def _open_streams(device: Device, bundle: Bundle) -> SeparateSpeechStreaming | None:
    """A model that separates streams, by a graph of their own; None where it cannot."""
    if enhancement_of(bundle.manifest).stream is None:
        return None
    model: SeparateSpeechStreaming = open_on(device, bundle, command=STREAMING)
    return model


def _separate(
    model: Any,
    heard: Mapping[str, Heard],
    recorder: InputRecorder | None = None,
    streamed: SeparateSpeechStreaming | None = None,
) -> dict[str, Waves]:
    """Separate mixtures, and record what the graphs are fed.

    That of streams is fed with the first ones that are recorded.
    """
    made: dict[str, Waves] = {}
    start = time.monotonic()
    for key in progress(heard, len(heard)):
        made[key] = np.concatenate(model(**heard[key].arguments))
        if recorder is not None:
            if streamed is not None and len(made) <= CALIBRATED:
                streamed.simulate(heard[key].arguments["speech_mix"])
            recorder.next_utterance()
    logger.info("separated %d mixtures in %.0f s", len(made), time.monotonic() - start)
    return made


def _seconds(model: Any, heard: Heard) -> dict[str, float]:
    """Seconds of one mixture."""
    start = time.perf_counter()
    model(**heard.arguments)
    return {"separation": time.perf_counter() - start}
