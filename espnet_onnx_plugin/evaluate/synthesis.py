"""Evaluation of bundles that synthesize speech, by its distance to fp32's."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import MANIFEST, Bundle, sha256
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.asr_scoring import (
    AsrScorer,
    count_characters,
    normalize,
)
from espnet_onnx_plugin.evaluate.budgets import SpeechBudget
from espnet_onnx_plugin.evaluate.data_options import InputOptions
from espnet_onnx_plugin.evaluate.evaluator import Baseline, Evaluator, open_on
from espnet_onnx_plugin.evaluate.graph_pairs import GraphPairs
from espnet_onnx_plugin.evaluate.graphs import (
    WAVEFORM_TOLERANCE,
    Comparison,
    difference,
    not_among,
)
from espnet_onnx_plugin.evaluate.recorder import InputRecorder
from espnet_onnx_plugin.evaluate.speech_quality import average
from espnet_onnx_plugin.evaluate.speed import Seconds, time_in_turns
from espnet_onnx_plugin.evaluate.synthesized import SpeechQuality, measure_or_lost
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.progress import progress
from espnet_onnx_plugin.runtime.synthesis.described import synthesis_of
from espnet_onnx_plugin.runtime.synthesis.engine import Synthesizer
from espnet_onnx_plugin.runtime.synthesis.inputs import Arguments, Texts, named
from espnet_onnx_plugin.tasks import Task, door_of

logger = logging.getLogger(__name__)

#: Most frames for each token of a made-up text, which a model need not ever end.
MAXLENRATIO = 3.0

#: Outputs that are compared, where there are such; the first is what is heard.
_HEARD = ("wav", "feat_gen")

#: Outputs of an utterance, by name.
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SynthesisEvaluator(Evaluator[SpeechBudget]):
    """Texts, and the options by which they are synthesized.

    Attributes:
        asr_model_dir: bundle of an ASR model that scores the speech, or None.
    """

    source: Texts | None = None
    asr_model_dir: Path | None = None

    data_class = InputOptions
    budget_class = SpeechBudget
    option = "--data_path_and_name_and_type"
    made_up = "made-up"
    only_faster = True

    @classmethod
    def from_options(
        cls, task: Task, data: InputOptions, options: Mapping[str, Any] | None = None
    ) -> SynthesisEvaluator:
        """Make the evaluator of a command's options."""
        files = data.data_path_and_name_and_type
        if files is None:
            if data.asr_model_dir is not None:
                raise PluginError(f"--asr_model_dir needs texts: {cls.option}")
            return cls(options=options)
        source = task.door.load().data(files, data.calibration_texts)
        return cls(source, options, data.asr_model_dir)

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
            asr_model=None if self.asr_model_dir is None else self._asr_model(),
        )

    def _asr_model(self) -> str:
        """Digest of the recognizer; one that is not there is refused when opened."""
        assert self.asr_model_dir is not None
        manifest = self.asr_model_dir / MANIFEST
        return sha256(manifest) if manifest.is_file() else str(self.asr_model_dir)

    def check_options(self) -> dict[str, Any]:
        """Decoding options of a check: every utterance draws the same noise again."""
        made_up = {} if self.real else {"maxlenratio": MAXLENRATIO}
        return dict(always_fix_seed=True, **made_up)

    def compare(self, reference: Bundle, other: Bundle, device: Device) -> Comparison:
        """Synthesize with two bundles and the same noise."""
        graphs = GraphPairs(reference, other, device)
        options = self.check_options()
        watched = replace(device, watch=graphs.watch)
        left: Synthesizer = open_on(watched, reference, **options)
        right: Synthesizer = open_on(device, other, **options)
        count = identical = 0
        for key, inputs in _utterances(reference, self.source):
            logger.info("comparing on %s", key)
            graphs.calls.clear()
            with named(key):
                expected = left(**inputs)
                right.given_f0 = left.f0
                made = right(**inputs)
            pairs = [(made[n], expected[n]) for n in _HEARD if n in expected]
            if left.f0 is not None:
                pairs.append((right.f0, left.f0))
            count += 1
            identical += all(
                difference(ours, theirs) <= WAVEFORM_TOLERANCE for ours, theirs in pairs
            )
        left_out = not_among(reference, graphs.differences)
        return Comparison(count, self.kind, identical, graphs.differences, left_out)

    def run(self, model: Bundle, device: Device) -> SynthesisBaseline:
        """Synthesize with the fp32 bundle.

        Raises:
            PluginError: if an ASR model is to score what it cannot be held to.
        """
        options = {**(self.options or {}), **self.check_options()}
        inputs = dict(_utterances(model, self.source))
        scorer = None
        if self.asr_model_dir is not None:
            scorer = AsrScorer(self.asr_model_dir, device)
        texts = {key: entry["text"] for key, entry in inputs.items()}
        spelled = {key: text for key, text in texts.items() if isinstance(text, str)}
        if scorer is not None and not any(map(normalize, spelled.values())):
            raise PluginError(
                f"--asr_model_dir {self.asr_model_dir} needs texts that it can hear: "
                "give --data_path_and_name_and_type PATH,text,text"
            )
        device = replace(device, emulate=True)
        recorder = InputRecorder(model)
        watched = replace(device, watch=recorder.record)
        synthesizer: Synthesizer = open_on(watched, model, **options)
        # Once: the texts' phonemes are not what is timed.
        inputs = {key: synthesizer.prepare(entry) for key, entry in inputs.items()}
        made = _synthesize(synthesizer, inputs, recorder)
        baseline = SynthesisBaseline(
            model=model,
            device=device,
            options=options,
            feeds=recorder.by_role,
            evaluator=self,
            inputs=inputs,
            texts=spelled,
            scorer=scorer,
            made=made,
        )
        return replace(baseline, cer=baseline.character_error_rate(made))


def _utterances(
    bundle: Bundle, source: Texts | None
) -> Iterator[tuple[str, Arguments]]:
    """Utterances of a check, with ids: those of the data, or made-up ones."""
    data = door_of(bundle).load().data
    if source is None:
        yield from data.made_up(bundle)
        return
    opened = source.read(data.audio in synthesis_of(bundle.manifest).reads)
    for key in opened.keys:
        with named(key):
            inputs = opened.of(key)
        yield key, inputs


@dataclass(frozen=True)
class SynthesisBaseline(Baseline[SpeechBudget]):
    """Speech of the fp32 bundle, which that of others is held against.

    Attributes:
        evaluator: the texts.
        inputs: inputs of the model, by utterance.
        texts: texts in letters, by utterance.
        scorer: the ASR model that scores the speech, if any.
        made: waveforms, or features, by utterance.
        cer: character error rate in percent, where an ASR model scores the speech.
    """

    evaluator: SynthesisEvaluator
    inputs: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, str]
    scorer: AsrScorer | None
    made: Mapping[str, Outputs]
    cer: float | None = None

    def measure(self, bundle: Bundle) -> SpeechQuality:
        """Synthesize the same with another bundle, and measure its speech."""
        rate = self.model.manifest.synthesis.sampling_rate
        made = _synthesize(self.open(bundle), self.inputs)
        pairs = [(self.made[key], outputs) for key, outputs in made.items()]
        mean = average(
            measure_or_lost(expected["wav"], ours["wav"], rate)
            for expected, ours in pairs
            if "wav" in expected
        )
        return SpeechQuality(
            utterances=len(self.made),
            identical=sum(
                all(np.array_equal(ours[n], expected[n]) for n in expected)
                for expected, ours in pairs
            ),
            mcd=mean.mcd,
            log_f0_rmse=mean.log_f0_rmse,
            cer_fp32=self.cer,
            cer=self.character_error_rate(made),
        )

    def time(self, bundle: Bundle) -> Seconds:
        """Seconds of the fp32 bundle and another, before the vocoder and in it."""
        return time_in_turns(self.open_both(bundle), self.inputs.values(), _seconds)

    def character_error_rate(self, made: Mapping[str, Outputs]) -> float | None:
        """Character error rate in percent of speech, if an ASR model scores it."""
        if self.scorer is None:
            return None
        transcribed = {key: self._transcribe(made[key]) for key in self.texts}
        counts = count_characters(self.texts, transcribed)
        return None if counts is None else counts.rate

    def _transcribe(self, made: Outputs) -> str:
        """Transcribe an utterance; nothing where it is no sound."""
        if "wav" not in made:
            raise PluginError(
                f"--asr_model_dir {self.evaluator.asr_model_dir} listens to waveforms, "
                f"{self.model.path} makes features"
            )
        if not np.isfinite(made["wav"]).all():
            return ""
        rate = self.model.manifest.synthesis.sampling_rate
        return self.scorer.transcribe(made["wav"], rate)


def _synthesize(
    synthesizer: Synthesizer,
    inputs: Mapping[str, Mapping[str, Any]],
    recorder: InputRecorder | None = None,
) -> dict[str, Outputs]:
    """Synthesize utterances, and record what the graphs are fed."""
    made: dict[str, Outputs] = {}
    start = time.monotonic()
    for key in progress(inputs, len(inputs)):
        with named(key):
            outputs = synthesizer(**inputs[key])
        names = [name for name in _HEARD if name in outputs]
        made[key] = {name: outputs[name] for name in names[:1]}
        if recorder is not None:
            recorder.next_utterance()
    logger.info("spoke %d utterances in %.0f s", len(made), time.monotonic() - start)
    return made


def _seconds(synthesizer: Synthesizer, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of one utterance, by part."""
    synthesizer(**inputs)
    return synthesizer.seconds
