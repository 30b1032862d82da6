"""Parity of enhancement: what a bundle and ESPnet make of made-up mixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Enhancement
from espnet_onnx_plugin.bundle.enhancement import Diffusion
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.enh_stream import STEP
from espnet_onnx_plugin.export.parity.tolerance import (
    NOISE_FACTOR,
    Parity,
    moved_by_a_digit,
    require,
)
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming
from espnet_onnx_plugin.runtime.enhancement.diffusion import DiffusionSeparation
from espnet_onnx_plugin.runtime.enhancement.inputs import LENGTHS, Mixture, made_up
from espnet_onnx_plugin.runtime.enhancement.stft import at_rate

#: Sampling rate of made-up mixtures, which is what ESPnet's class takes them for.
RATE = 8000

#: How often a mixture is moved by a digit: by chance some moves change little.
MOVES = 3

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
    figures, skipped = [], []
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
        allowed = WAVEFORM_TOLERANCE
        if figure > allowed:
            rounding = []
            for seed in range(MOVES):
                moved = moved_by_a_digit(mixture.speech_mix, seed)
                arguments = replace(mixture, speech_mix=moved).arguments()
                again = [np.asarray(wave) for wave in espnet(**arguments, fs=fs)]
                rounding.append(furthest(again, expected))
            allowed = limit(max(rounding))
        figures.append(require("separator", what, figure, allowed))
    return Parity({"waveforms": max(figures)} if figures else {}, skipped)


def limit(rounding: float) -> float:
    """How far waveforms may be from ESPnet's.

    Filters of a mixture that hardly determines them magnify rounding, ESPnet's as much
    as ours. Waveforms of which that leaves nothing are held to the tolerance.

    Args:
        rounding: how far ESPnet moves from itself at most when the mixture moves by a
            float's last digit.
    """
    allowed = NOISE_FACTOR * rounding
    most = 10 * WAVEFORM_TOLERANCE
    return allowed if WAVEFORM_TOLERANCE < allowed <= most else WAVEFORM_TOLERANCE


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


@torch.no_grad()
def check_score(diffusion: torch.nn.Module, bundle: Bundle, device: Device) -> float:
    """Compare a score with ESPnet's, on noise.

    A sampler runs it 60 times, each time on what it made of the time before.

    Args:
        diffusion: ESPnet's.
        bundle: where the graph lies.
        device: where it runs.

    Returns:
        The largest difference.

    Raises:
        PluginError: if it is above the tolerance.
    """
    ours, worst = DiffusionSeparation(bundle, device), 0.0
    _, bins, _ = bundle.manifest.graphs["separator"].inputs["sample"].axes
    for frames, time in ((17, 0.9), (150, 0.1)):
        random = np.random.default_rng(frames)
        noise = random.standard_normal((2, frames, int(bins), 2), np.float32)
        x, y = torch.view_as_complex(torch.from_numpy(noise)).transpose(1, 2)
        score = diffusion.score_fn(x[None, None], torch.tensor([time]), y[None, None])
        expected = torch.view_as_real(score[0, 0].T.contiguous()).numpy()
        figure = difference(ours.score(*noise, time), expected)
        worst = max(worst, require("separator", f"{frames} frames", figure))
    return worst


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
    lengths = torch.tensor([mix.shape[1]])
    return [np.asarray(model.merge(chunks, lengths)) for chunks in zip(*frames)]


def check_stream(
    separate: SeparateSpeech, streaming: SeparateSpeechStreaming, espnet: Any
) -> Parity:
    """Compare streams of a bundle with ESPnet's, and with whole mixtures.

    ESPnet's are compared for some frames, which take it long; where streams get what
    whole mixtures get, they are for more than a separator can look back to.

    Args:
        separate, streaming: of the bundle.
        espnet: ESPnet's ``SeparateSpeechStreaming``.

    Raises:
        PluginError: if a difference is above the tolerance.
    """
    described = separate.enhancement
    settings = described.stream
    assert settings is not None
    frames = 2 * (settings.segment or 0) + 21
    mix = _noise(settings.frame_size + frames * settings.hop_length + 1)
    worst, skipped = 0.0, []
    try:
        theirs = separate_frames(espnet, torch.from_numpy(mix)[None])
    except RuntimeError as e:  # the tcn of 202511, on spectra
        if not settings.exact:
            raise
        reason = " ".join(str(e).split())[:200]
        skipped.append(f"frames of a stream: ESPnet cannot separate them: {reason}")
    else:
        theirs = [np.where(np.isfinite(wave), wave, 0) for wave in theirs]
        figure = furthest(separate_frames(streaming, mix[None]), theirs)
        worst = require(STEP, "frames", figure)
    if not settings.exact:
        return Parity({"stream": worst})
    mix = _noise(mix.size + (100 + 2 * settings.silence) * settings.hop_length)
    deviation = 1.0 if described.variance is None else float(np.std(mix, ddof=1))
    fs = described.forward_rate or RATE
    stream = streaming.stream(fs, deviation=deviation)
    ends = np.cumsum([1, settings.frame_size, 3 * settings.hop_length, len(mix) // 3])
    parts = [stream.feed(part) for part in np.split(mix, ends)]
    made = np.concatenate((*parts, stream.finish()), axis=1)
    expected = np.concatenate(separate(mix[None], fs))
    figure = require(STEP, "a stream", difference(made, expected))
    return Parity({"stream": max(worst, figure)}, skipped)


def _noise(samples: int) -> np.ndarray:
    random = np.random.default_rng(samples)
    return 0.1 * random.standard_normal(samples).astype(np.float32)


def _at_rates(described: Enhancement) -> Iterator[tuple[str, Mixture, int]]:
    """Made-up mixtures, at several rates where the transform follows them."""
    slow = isinstance(described.method, Diffusion)  # 60 runs of its network for each
    for number, (what, mixture) in enumerate(made_up(described)):
        if not slow or number < 2:
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
