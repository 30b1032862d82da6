"""Sines of the fundamental frequency, which vocoders of singing make waveforms of.

A phase is a sum over all samples before. ESPnet's is rounded to float32 at every
sample, minutes into a song by hundredths of a period, which the vocoder hears: here it
is rounded alike, and not left to a graph, whose sums are not as exact.
"""

from __future__ import annotations

import numpy as np

from espnet_onnx_plugin.bundle import Excitation
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


def excite(
    f0: np.ndarray, settings: Excitation, frame_shift: int, noise: Noise
) -> np.ndarray:
    """Make the excitation of a whole utterance.

    Args:
        f0: in Hz (frames,), 0 where unvoiced.
        settings: of the model.
        frame_shift: samples of a frame.
        noise: what is drawn.

    Returns:
        (frames, frame_shift), float32.
    """
    f0 = f0.astype(np.float32)
    noise.skip(settings.unused_draws * len(f0))
    expand = interpolated if settings.interpolated else repeated
    of_samples = expand(f0, frame_shift)
    if settings.kind == "sines":
        made = _sines(of_samples, settings.sampling_rate)
    else:
        made = _source(of_samples, settings, noise)
    return made.reshape(len(f0), frame_shift)


def repeated(values: np.ndarray, factor: int) -> np.ndarray:
    """(frames,) -> (frames * factor,), each value ``factor`` times."""
    return np.repeat(values, factor)


def interpolated(values: np.ndarray, factor: int) -> np.ndarray:
    """(frames,) -> (frames * factor,), in lines, as torch's ``F.interpolate``.

    Torch reckons the places in float32, of which the last samples of a song notice.
    """
    scale = np.float32(len(values)) / np.float32(len(values) * factor)
    samples = np.arange(len(values) * factor, dtype=np.float32)
    # The product is not rounded before the sum, on processors that add in one.
    places = np.float64(scale) * (samples + np.float32(0.5)) - 0.5
    places = np.maximum(places.astype(np.float32), 0)
    left = np.minimum(places.astype(np.int64), len(values) - 1)
    right = np.minimum(left + 1, len(values) - 1)
    share = np.clip(places - left.astype(np.float32), 0, 1).astype(np.float32)
    return (1 - share) * values[left] + share * values[right]


def _cumsum(values: np.ndarray) -> np.ndarray:
    """Torch's: in double precision, each sum rounded to float32."""
    return np.cumsum(values, dtype=np.float64).astype(np.float32)


def _sin(phase: np.ndarray) -> np.ndarray:
    """Sine of float32; numpy's own differs from one processor to the next."""
    return np.sin(phase.astype(np.float64)).astype(np.float32)


def _sines(f0: np.ndarray, rate: int) -> np.ndarray:
    """Sines (samples,), as in VISinger 2."""
    return _sin(_cumsum(np.float32(2 * np.pi) * f0 / np.float32(rate)))


def _source(f0: np.ndarray, settings: Excitation, noise: Noise) -> np.ndarray:
    """Sines where voiced, and noise (samples,).

    Neural source-filter waveform models (arXiv:1904.12088), section II.B, as in
    ``espnet2.gan_svs.uhifigan.sine_generator.SineGen``, of the fundamental alone.
    """
    noise.skip(1)  # the first phase of the fundamental, which then is 0
    turns = f0 / np.float32(settings.sampling_rate) % np.float32(1)
    wraps = np.diff(_cumsum(turns) % np.float32(1)) < 0
    turns[1:] -= wraps  # so that the sum stays small
    amplitude = np.float32(settings.sine_amp)
    sines = amplitude * _sin(_cumsum(turns) * np.float32(2) * np.float32(np.pi))
    voiced = (f0 > np.float32(settings.voiced_threshold)).astype(np.float32)
    deviation = voiced * np.float32(settings.noise_std)
    deviation += (1 - voiced) * amplitude / np.float32(3)
    return sines * voiced + deviation * noise.normal(len(f0))
