"""Resampling as ``torchaudio.functional.resample`` does it."""

from __future__ import annotations

import functools
import math

import numpy as np

#: Zero crossings of the sinc on each side, and the cutoff as a part of the lower rate's
#: half: torchaudio's ``lowpass_filter_width`` and ``rolloff``.
CROSSINGS = 6
ROLLOFF = 0.99


@functools.lru_cache(maxsize=8)
def _filters(rate: int, new_rate: int) -> tuple[np.ndarray, int]:
    """Filters (new_rate, taps) of coprime rates, and how many taps lie before time 0.

    A sinc of the lower rate in a Hann window, as torchaudio rounds it in float32.
    """
    base = min(rate, new_rate) * ROLLOFF
    width = math.ceil(CROSSINGS * rate / base)
    taps = np.arange(-width, width + rate, dtype=np.float32) / np.float32(rate)
    begins = np.arange(0, -new_rate, -1, dtype=np.float32) / np.float32(new_rate)
    time = (begins[:, None] + taps) * np.float32(base)
    time = time.clip(-CROSSINGS, CROSSINGS)
    window = np.cos(time * np.float32(math.pi) / CROSSINGS / 2) ** 2
    time = time * np.float32(math.pi)
    at_zero = time == 0
    sinc = np.where(at_zero, 1, np.sin(time) / np.where(at_zero, 1, time))
    return sinc * (window * np.float32(base / rate)), width


def resample(wave: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Bring waveforms to another rate.

    Args:
        wave: (..., samples), float32.
        rate, new_rate: samples a second.

    Returns:
        (..., samples * new_rate / rate), rounded up.
    """
    if rate == new_rate:
        return wave
    common = math.gcd(rate, new_rate)
    rate, new_rate = rate // common, new_rate // common
    filters, width = _filters(rate, new_rate)
    # torchaudio's ceiling is of a float32, which has no fractions above 2 ** 23.
    length = int(np.ceil(np.float32(new_rate * wave.shape[-1] / rate)))
    wave = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(width, width + rate)])
    taps = filters.shape[1]
    pieces = np.lib.stride_tricks.sliding_window_view(wave, taps, axis=-1)
    made = pieces[..., ::rate, :] @ filters.T
    return made.reshape(*wave.shape[:-1], -1)[..., :length]
