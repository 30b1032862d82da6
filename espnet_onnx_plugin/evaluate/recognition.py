"""Evaluation of bundles that recognize speech, by their tokens and error rates."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import TokenBudget
from espnet_onnx_plugin.evaluate.data_options import AudioOptions
from espnet_onnx_plugin.evaluate.error_rate import import_jiwer
from espnet_onnx_plugin.evaluate.evaluator import Baseline, Evaluator, open_on
from espnet_onnx_plugin.evaluate.graphs import (
    Comparison,
    Differences,
    not_among,
    roles_by_file,
)
from espnet_onnx_plugin.evaluate.recorder import CALIBRATED, InputRecorder
from espnet_onnx_plugin.evaluate.speed import Seconds, time_in_turns
from espnet_onnx_plugin.evaluate.streams import Streams, compare_streams
from espnet_onnx_plugin.evaluate.tokens import Decoded, TokenQuality
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import LENS
from espnet_onnx_plugin.runtime.core.values import to_numpy
from espnet_onnx_plugin.runtime.io.data import Source, usable
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.io.progress import progress
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.tasks import Task, door_of, task_of

logger = logging.getLogger(__name__)

#: Beam of a search for a check.
BEAM_SIZE = 5

#: Decoding the set with the fp32 bundle stops after this time; what was decoded by then
#: is the set.
MAX_SECONDS = 900.0

#: A token of a transcript that says how it is spoken: language, task, time.
SPECIAL = re.compile(r"<[^<>\s]+>")

#: An utterance: id, audio, and by name what else the model reads.
Utterance = tuple[str, np.ndarray, dict[str, str]]


def noise(manifest: Manifest) -> Iterator[Utterance]:
    """Utterances for a check without audio, as :func:`usable` gives real ones."""
    random = np.random.default_rng(0)
    speech, mixture = manifest.speech, manifest.enhancement
    shortest = speech.min_length
    frame = [speech.feature_dim] if speech.feature_dim else []
    if mixture is not None:
        shortest = max(shortest, mixture.min_length)
        frame = [] if mixture.channels == 1 else [mixture.channels or 2]
    for factor in (3, 7, 20):
        shape = [shortest * factor, *frame]
        yield f"noise {shape}", random.standard_normal(shape) * 0.1, {}


def search_options(bundle: Bundle) -> dict[str, Any]:
    """Decoding options for a check, such that every graph of the bundle is used."""
    return door_of(bundle).load().check_options(bundle, BEAM_SIZE)


@dataclass(frozen=True)
class RecognitionEvaluator(Evaluator[TokenBudget]):
    """Audio, its transcripts, and the search that decodes it.

    Attributes:
        texts: transcripts in Kaldi's format, one file for each speaker; none: unknown.
    """

    source: Source | None = None
    texts: Sequence[Path] = ()

    data_class = AudioOptions
    budget_class = TokenBudget
    option = "--calibration_scp"
    made_up = "noise"

    @classmethod
    def from_options(
        cls, task: Task, data: AudioOptions, options: Mapping[str, Any] | None = None
    ) -> RecognitionEvaluator:
        """Make the evaluator of a command's options."""
        others = {}
        if data.calibration_transcript is not None:
            if "transcript" not in task.reads:
                raise PluginError(
                    "--calibration_transcript is for models of task slu, which read "
                    "it; transcripts for the error rate are --calibration_text"
                )
            others["transcript"] = data.calibration_transcript
        if not data.calibration_scp:
            for name in ("calibration_transcript", "calibration_text"):
                if getattr(data, name):
                    raise PluginError(f"--{name} needs the audio: --calibration_scp")
            return cls(options=options)
        source = Source.parse(data.calibration_scp, data.calibration_utterances)
        return cls(replace(source, others=others), options, data.calibration_text)

    def as_dict(self) -> dict[str, Any] | None:
        """For the manifest: what decides the figures."""
        if self.source is None:
            return None
        others = self.source.others
        data = [(self.source.path, self.source.type)]
        data += [(path, "text") for path in (*others.values(), *self.texts)]
        return dict(
            digest=InputDigests(data).of_all(self.source.limit),
            scp=str(self.source.path),
            type=self.source.type,
            limit=self.source.limit,
            others={name: str(path) for name, path in others.items()},
            texts=list(map(str, self.texts)),
            options=self.options and dict(self.options),
        )

    def utterances(self, model: Bundle) -> Iterator[Utterance]:
        """Utterances that the model can take."""
        if self.source is None:
            return noise(model.manifest)
        return usable(self.source, model.manifest.speech)

    def transcripts(self, model: Bundle) -> Sequence[Mapping[str, str]] | None:
        """Transcripts of each speaker, by utterance.

        Raises:
            PluginError: if there are other numbers of texts and speakers.
        """
        if not self.texts:
            return None
        speakers = model.manifest.speakers or 1
        if len(self.texts) != speakers:
            raise PluginError(
                f"--calibration_text names {len(self.texts)} file(s) for a model of "
                f"{speakers} speaker(s): give one for each"
            )
        tables = list(map(read_scp, self.texts))
        if task_of(model).special_tokens:
            return [
                {k: SPECIAL.sub(" ", t) for k, t in table.items()} for table in tables
            ]
        return tables

    def compare(self, reference: Bundle, other: Bundle, device: Device) -> Comparison:
        """Decode with two bundles, and compare each component and the best tokens.

        Both get what the reference's enhancement and encoder made: each component on
        its own.
        """
        used: set[str] = set()
        roles = roles_by_file(reference)
        watched = replace(
            device, watch=lambda graph, feeds: used.add(roles[graph.file.name])
        )
        left: SpeechModel = open_on(watched, reference, **search_options(reference))
        right: SpeechModel = open_on(device, other, **search_options(other))
        streams: tuple[Streams, Streams] | None = None
        if reference.manifest.stream is not None:
            streams = Streams(reference, watched), Streams(other, device)
        count = identical = 0
        differences = Differences()
        for key, audio, others in self.utterances(reference):
            logger.info("comparing on %s", key)
            prepared = [left.prepare(audio, **others)]
            same = True
            if reference.manifest.enhancement is not None:
                same = _best(left, audio) == _best(right, audio)
                made, prepared = (side.enhance(prepared) for side in (right, left))
                differences.add("enhancement", np.stack(made), np.stack(prepared))
            sides = (side.stages(side.encode(prepared)) for side in (right, left))
            for ours, expected in zip(*sides, strict=True):
                same &= _compare_stage(ours, expected, reference, differences)
            if streams is not None:
                compare_streams(*streams, prepared[0], differences)
            count += 1
            identical += same
        left_out = not_among(reference, used)
        return Comparison(count, self.kind, identical, differences, left_out)

    def run(self, model: Bundle, device: Device) -> RecognitionBaseline:
        """Decode with the fp32 bundle."""
        import_jiwer()  # missed now, not after all has been decoded
        options = search_options(model) if self.options is None else self.options
        device = replace(device, emulate=True)
        transcripts = self.transcripts(model)
        recorder = InputRecorder(model)
        watched = replace(device, watch=recorder.record)
        decoded = _decode(
            open_on(watched, model, **options),
            self.utterances(model),
            (self.source and self.source.limit) or 0,
            MAX_SECONDS,
            recorder,
            None if model.manifest.stream is None else Streams(model, watched),
        )
        return RecognitionBaseline(
            model=model,
            device=device,
            options=options,
            feeds=recorder.by_role,
            evaluator=self,
            transcripts=transcripts,
            decoded=decoded,
        )


@dataclass(frozen=True)
class RecognitionBaseline(Baseline[TokenBudget]):
    """Decoded results of the fp32 bundle, which others are held against.

    Attributes:
        evaluator: the audio.
        transcripts: what each speaker said, by utterance, where that is known.
        decoded: best hypotheses by utterance.
    """

    evaluator: RecognitionEvaluator
    transcripts: Sequence[Mapping[str, str]] | None
    decoded: Mapping[str, Decoded]

    def measure(self, bundle: Bundle) -> TokenQuality:
        """Decode the same with another bundle, and compare."""
        count = len(self.decoded)
        utterances = islice(self.evaluator.utterances(bundle), count)
        decoded = _decode(self.open(bundle), utterances, count)
        return TokenQuality.measure(decoded, self.decoded, self.transcripts)

    def time(self, bundle: Bundle) -> Seconds:
        """Seconds in encoder and search of the fp32 bundle and another."""
        utterances = self.evaluator.utterances(bundle)
        return time_in_turns(self.open_both(bundle), utterances, _seconds)


def _decode(
    speech2text: SpeechModel,
    utterances: Iterable[Utterance],
    total: int,
    max_seconds: float = math.inf,
    recorder: InputRecorder | None = None,
    streams: Streams | None = None,
) -> dict[str, Decoded]:
    """Decode utterances, for some time at most, and record what the graphs are fed.

    Those of streams are fed with the first utterances that are recorded.
    """
    # Its lines on each utterance are for who decodes one.
    logging.getLogger("espnet_onnx_plugin.runtime").setLevel(logging.WARNING)
    start = time.monotonic()
    decoded: dict[str, Decoded] = {}
    for key, audio, others in progress(utterances, total):
        if time.monotonic() - start > max_seconds:
            logger.warning(
                "decoding takes long: the budget is measured on %d utterances",
                len(decoded),
            )
            break
        decoded[key] = _best(speech2text, audio, **others)
        if recorder is not None:
            if streams is not None and len(decoded) <= CALIBRATED:
                streams(streams.features(speech2text.prepare(audio, **others)))
            recorder.next_utterance()
    seconds = time.monotonic() - start
    logger.info("decoded %d utterances in %.0f s", len(decoded), seconds)
    return decoded


def _best(speech2text: SpeechModel, audio: np.ndarray, **others: str) -> Decoded:
    results = speech2text.recognize(audio, **others)
    if isinstance(results, tuple):  # those of intermediate CTC come with them
        results = results[0]
    lists = [results] if speech2text.bundle.manifest.speakers is None else results
    tokens: list[int] = []
    texts: list[str] = []
    for nbest in lists:
        if not nbest:
            texts.append("")
            continue
        text, _, token_int, *_ = nbest[0]
        # Of a text with tokens that say how it is spoken, ESPnet scores the rest.
        text = speech2text.lines(nbest[0]).get("text_nospecial", text)
        tokens += token_int
        texts.append(text or " ".join(map(str, token_int)))
    return Decoded(tokens, texts)


def _seconds(speech2text: SpeechModel, utterance: Utterance) -> dict[str, float]:
    """Seconds in encoder and search of one utterance."""
    _, audio, others = utterance
    speech2text.recognize(audio, **others)
    timing = speech2text.timing
    encoder = timing.frontend + timing.encoder
    return {"encoder": encoder, "search": sum(timing) - encoder}


def _compare_stage(
    ours: Stage, expected: Stage, bundle: Bundle, differences: Differences
) -> bool:
    """Compare one search of two bundles; whether the best tokens are the same."""
    for role, made in expected.made.items():
        for name, value in made.items():
            if not name.endswith(LENS):
                differences.add(role, to_numpy(ours.made[role][name]), to_numpy(value))
    same = True
    # One, or one for each speaker.
    pairs = zip(ours.hypotheses, expected.hypotheses, strict=True)
    for i, (found, best) in enumerate(pairs):
        same &= [h.yseq for h in best[:1]] == [h.yseq for h in found[:1]]
        tokens = (best[0].yseq[:-1] if best else []) or [0]
        tokens = tokens[: getattr(bundle.manifest.search, "max_tokens", None)]
        encoded = expected.encoded.select([i])
        for name, role in expected.roles.items():
            if name in expected.search.scorers:
                forced = (
                    stage.search.scorers[name].along(encoded, tokens)
                    for stage in (ours, expected)
                )
                differences.add(role, *forced)
    return same
