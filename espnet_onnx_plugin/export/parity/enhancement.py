"""Parity of enhancement: what a bundle and ESPnet make of made-up mixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.bundle.enhancement import Diffusion
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.enh_stream import STEP
from espnet_onnx_plugin.export.parity.tolerance import Parity, require
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming
from espnet_onnx_plugin.runtime.enhancement.inputs import LENGTHS, Mixture, made_up
from espnet_onnx_plugin.runtime.enhancement.stft import at_rate

#: Sampling rate of made-up mixtures, which is what ESPnet's class takes them for.
RATE = 8000

#: Waveforms (utterances, samples) of each output, of arguments of ESPnet's class.
Separate = Callable[..., Sequence[Any]]


def check_enhancement(
    described: Enhancement, separate: Separate, espnet: Separate
) -> Parity:
    """Compare what the bundle makes with what ESPnet makes, of made-up mixtures.

    Raises:
        PluginError: if a difference is above the tolerance, or ESPnet itself cannot
            take one of the longer mixtures.
    """
    worst, skipped = 0.0, []
    for what, mixture, fs in _at_rates(described):
        given = {**mixture.arguments(), "fs": fs}
        try:
            expected = [np.asarray(wave) for wave in espnet(**given)]
        except (RuntimeError, AssertionError, IndexError, ValueError) as e:
            reason = " ".join(str(e).split())[:200]
            if len(mixture.speech_mix) >= LENGTHS[0]:
                raise PluginError(
                    f"parity check failed: ESPnet cannot take {what}: {reason}"
                )
            skipped.append(f"{what}: ESPnet cannot take it: {reason}")
            continue
        figure = furthest(separate(**given), expected)
        if figure > WAVEFORM_TOLERANCE and len(mixture.speech_mix) < LENGTHS[-1]:
            louder = replace(mixture, speech_mix=louder_by_little(mixture.speech_mix))
            again = espnet(**louder.arguments(), fs=fs)
            reason = undetermined([np.asarray(wave) for wave in again], expected)
            if reason is not None:
                skipped.append(f"{what}: {reason}")
                continue
        worst = max(worst, require("separator", what, figure, WAVEFORM_TOLERANCE))
    return Parity({"waveforms": worst}, skipped)


def louder_by_little(mix: np.ndarray) -> np.ndarray:
    """A mixture that is 1e-6 louder."""
    return mix * np.float32(1 + 1e-6)


def undetermined(
    again: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> str | None:
    """Why ESPnet's waveforms are nothing to compare with, or None.

    Filters may be of fewer frames than unknowns.

    Args:
        again: those of the mixture :func:`louder_by_little`.
        expected: those of the mixture.
    """
    shaken = furthest(again, expected)
    if shaken <= WAVEFORM_TOLERANCE:
        return None
    return (
        f"ESPnet's own result changes by {shaken:.0e} of its scale when the mixture is "
        "1e-6 louder"
    )


def furthest(made: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of an output."""
    return max(difference(*pair) for pair in zip(made, expected, strict=True))


def separate_frames(model: Any, mix: Any) -> list[np.ndarray]:
    """Separate mixtures frame by frame, as ``enh_inference_streaming`` of ESPnet does.

    Args:
        model: a ``SeparateSpeechStreaming``, ESPnet's or a bundle's.
        mix: (utterances, samples).

    Returns:
        Of each speaker (utterances, samples).
    """
    frames = [model(frame) for frame in model.frame(mix)]
    model.reset()
    return [np.asarray(model.merge(chunks)) for chunks in zip(*frames)]


def check_stream(
    separate: SeparateSpeech, streaming: SeparateSpeechStreaming, espnet: Any
) -> float:
    """Compare streams of a bundle with ESPnet's, and with whole mixtures.

    ESPnet's are compared for some frames, which take it long; where streams get what
    whole mixtures get, they are for more than a separator can look back to.

    Args:
        separate, streaming: of the bundle.
        espnet: ESPnet's ``SeparateSpeechStreaming``.

    Returns:
        The largest relative difference.

    Raises:
        PluginError: if it is above the tolerance.
    """
    described = separate.enhancement
    settings = described.stream
    assert settings is not None
    frames = 2 * (settings.segment or 0) + 21
    mix = _noise(settings.frame_size + frames * settings.hop_length + 1)
    worst = 0.0
    theirs = separate_frames(espnet, torch.from_numpy(mix)[None])
    ours = separate_frames(streaming, mix[None])
    for made, expected in zip(ours, theirs, strict=True):
        figure = difference(made, np.where(np.isfinite(expected), expected, 0))
        worst = max(worst, require(STEP, "frames", figure))
    if not settings.exact:
        return worst
    mix = _noise(mix.size + (100 + 2 * settings.silence) * settings.hop_length)
    deviation = 1.0 if described.variance is None else float(np.std(mix, ddof=1))
    stream = streaming.stream(deviation=deviation)
    ends = np.cumsum([1, settings.frame_size, 3 * settings.hop_length, len(mix) // 3])
    parts = [stream.feed(part) for part in np.split(mix, ends)]
    made = np.concatenate((*parts, stream.finish()), axis=1)
    expected = np.concatenate(separate(mix[None], described.forward_rate or 8000))
    return max(worst, require(STEP, "a stream", difference(made, expected)))


def _noise(samples: int) -> np.ndarray:
    random = np.random.default_rng(samples)
    return 0.1 * random.standard_normal(samples).astype(np.float32)


def _at_rates(described: Enhancement) -> Iterator[tuple[str, Mixture, int]]:
    """Made-up mixtures, at several rates where the transform follows them."""
    slow = isinstance(described.method, Diffusion)  # 60 runs of a large network each
    for number, (what, mixture) in enumerate(made_up(described)):
        if not slow or number in (0, 2):
            yield what, mixture, RATE
    analysis = described.analysis
    if analysis is None or analysis.default_fs is None:
        return
    for fs in sorted({11025, 16000, 48000, analysis.default_fs} - {RATE}):
        if (described.max_bins or np.inf) < at_rate(analysis, fs).bins:
            continue
        for what, mixture in made_up(described):
            if len(mixture.speech_mix) >= LENGTHS[1]:
                yield f"{what} at {fs} Hz", mixture, fs
