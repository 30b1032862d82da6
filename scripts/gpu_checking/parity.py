"""Parts: results on the provider beside the CPU's, of recognition and of synthesis."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from benchmarking.models import make_text
from gpu_checking.job import Job, Model, make_audio
from gpu_checking.results import Row

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.quantize.emulation import emulated
from espnet_onnx_plugin.report.results import TIE
from espnet_onnx_plugin.runtime.asr import Speech2Text
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
from espnet_onnx_plugin.runtime.tts import Text2Speech

#: Share of tokens that the CPU gives too, which lower precision has to keep: that of
#: conf/quantize.yaml.
MIN_TOKEN_AGREEMENT = 0.99

#: Length of the longest utterance, of those that are timed; of the shortest, of that.
LONGEST, SHORTEST = 0.4, 0.4

SEED = 777


class Variant(NamedTuple):
    """A way to run a bundle.

    Attributes:
        name: In the tables.
        bundle: Which one.
        session: Other attributes of the device.
        exact: Whether it has to give the CPU's tokens.
        warm_up: Runs before those that are timed.
    """

    name: str
    bundle: str
    session: Mapping[str, Any]
    exact: bool
    warm_up: int = 1


CPU = Variant("fp32", "fp32", {}, True)


def variants(provider: str) -> list[Variant]:
    """Return what runs on a provider; float16 is emulated on the CPU."""
    found = [CPU, Variant("optimized", "optimized", {}, True)]
    if provider == "cpu":
        return [*found, Variant("fp16, emulated", "fp16", {"emulate": True}, False)]
    return [
        *found,
        Variant("fp16", "fp16", {}, False),
        Variant("TF32", "fp32", {"tf32": True}, False),
    ]


def searching(provider: str) -> list[Variant]:
    """Return ways to search that the tables of other parts have no use for."""
    graphs: dict[str, Any] = {"cuda_graphs": True}
    if provider == "cpu":
        resident = {"resident": True}
        return [
            Variant("fp32, resident", "fp32", resident, True),
            Variant("fp32, in places", "fp32", {**resident, **graphs}, True),
        ]
    there = {**graphs, "resident": False}
    return [
        # A step is recorded when its sizes come again, of one search or of two.
        Variant("fp32, CUDA graphs", "fp32", graphs, True, 3),
        Variant("fp16, CUDA graphs", "fp16", graphs, False, 3),
        Variant("fp32, CUDA graphs, scores on the CPU", "fp32", there, True, 3),
    ]


def parity(job: Job) -> None:
    """Compare hypotheses with the CPU's.

    Raises:
        PluginError: After all rows, if one of them does not hold.
    """
    model, sizes = job.model("small"), job.sizes
    rate = model.bundle("fp32").manifest.speech.sampling_rate
    longest = sizes.audio_seconds * LONGEST
    lengths = np.linspace(SHORTEST * longest, longest, sizes.utterances)
    audio = [make_audio(seconds, rate, seed) for seed, seconds in enumerate(lengths)]
    expected = _recognize(model, "cpu", CPU, audio, 1)
    wrong: list[str] = []
    for variant in [*variants(job.provider), *searching(job.provider)]:
        for batch in (1, sizes.utterances):
            row: Row = {"model": model.name, "variant": variant.name, "batch": batch}
            try:
                found = _recognize(model, job.provider, variant, audio, batch)
                row |= _compare(found, expected, variant.exact)
            except Exception as e:  # onnxruntime's exceptions have no common base
                row |= _failed(e)
            job.add(**row)
            if not row["holds"]:
                wrong.append(f"{variant.name} in batches of {batch}")
    _refuse(wrong)


def voices(job: Job) -> None:
    """Compare waveforms with the CPU's, of the same noise.

    Raises:
        PluginError: After all rows, if one of them does not hold.
    """
    wrong: list[str] = []
    for name in dict.fromkeys(job.sizes.models[name] for name in ("hifigan", "vits")):
        model = Model(job, name)
        inputs = job.work_dir / "inputs" / name
        seconds = job.sizes.speech_seconds[0]
        [path] = make_text(seconds, model.bundle("fp32"), inputs).files
        ids = np.load(path)
        expected = _speak(model, "cpu", CPU, ids)
        for variant in variants(job.provider):
            row: Row = {"model": name, "variant": variant.name}
            try:
                far = difference(_speak(model, job.provider, variant, ids), expected)
                same = np.isfinite(far)
                row["largest difference of a sample"] = far if same else None
                # In lower precision a duration may be rounded otherwise.
                row["holds"] = far <= WAVEFORM_TOLERANCE if variant.exact else None
            except Exception as e:  # as above
                row |= _failed(e)
            job.add(**row)
            if row["holds"] is False:
                wrong.append(f"{name} in {variant.name}")
    _refuse(wrong)


def _failed(error: Exception) -> Row:
    reason = " ".join(str(error).split())[:200]
    return {"holds": False, "failed": reason or type(error).__name__}


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise PluginError(f"not as on the CPU: {', '.join(wrong)}")


#: Tokens and score of the best hypothesis of an utterance.
Best: TypeAlias = tuple[tuple[int, ...], float]


def _recognize(
    model: Model,
    provider: str,
    variant: Variant,
    audio: Sequence[np.ndarray],
    batch: int,
) -> list[Best]:
    """Recognize utterances, so many at a time."""
    options = model.config.settings[0].search_options
    found: list[Best] = []
    with _runnable(model, variant) as bundle:
        speech2text = Speech2Text(bundle, provider, session=variant.session, **options)
        for first in range(0, len(audio), batch):
            chosen = [speech2text.prepare(one) for one in audio[first : first + batch]]
            for nbest in speech2text.batch(chosen):
                _, _, tokens, hypothesis = nbest[0]
                found.append((tuple(tokens), float(hypothesis.score)))
    return found


def _runnable(model: Model, variant: Variant) -> AbstractContextManager[Bundle]:
    """Return a variant's bundle, on a CPU one that rounds as a GPU does."""
    bundle = model.bundle(variant.bundle)
    return emulated(bundle) if "emulate" in variant.session else nullcontext(bundle)


def _compare(found: Sequence[Best], expected: Sequence[Best], exact: bool) -> Row:
    """Return the columns of a comparison of tokens and scores."""
    pairs = list(zip(found, expected, strict=True))
    gaps = [abs(ours[1] - theirs[1]) for ours, theirs in pairs]
    same = [ours[0] == theirs[0] for ours, theirs in pairs]
    ties = [not s and gap <= TIE for s, gap in zip(same, gaps)]
    shares = [
        difflib.SequenceMatcher(None, ours[0], theirs[0], autojunk=False).ratio()
        for ours, theirs in pairs
    ]
    agreement = statistics.mean(shares)
    right = sum(same) + sum(ties) == len(pairs)
    return {
        "utterances": len(pairs),
        "tokens": sum(len(tokens) for tokens, _ in expected),
        "identical": sum(same),
        "ties": sum(ties),
        "tokens equal": agreement,
        "largest difference of a score": max(gaps),
        "holds": right if exact else agreement >= MIN_TOKEN_AGREEMENT,
    }


def _speak(
    model: Model, provider: str, variant: Variant, ids: np.ndarray
) -> np.ndarray:
    options = model.config.settings[0].search_options
    with _runnable(model, variant) as bundle:
        text2speech = Text2Speech(bundle, provider, session=variant.session, **options)
        text2speech.noise = Noise(SEED, mkl=False)
        return text2speech(ids)["wav"]
