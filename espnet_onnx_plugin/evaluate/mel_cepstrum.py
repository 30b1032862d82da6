"""Mel-cepstra, as SPTK computes them.

A mel-cepstrum is a cepstrum on a frequency axis that an all-pass filter of first order
bends as the ear does: log |H(w)| is the sum over m of c[m] cos(m v(w)), where v(w) is
the bent frequency. See T. Fukada, K. Tokuda, T. Kobayashi and S. Imai, "An adaptive
algorithm for mel-cepstral analysis of speech", ICASSP 1992.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Of SPTK's mcep: how many steps at least and at most, and how small a change ends them.
MIN_STEPS = 3
MAX_STEPS = 30
TOLERANCE = 1e-3


def from_envelope(power: np.ndarray, order: int, alpha: float) -> np.ndarray:
    """Mel-cepstrum of a smooth spectrum: its cepstrum, bent (SPTK's freqt).

    Args:
        power: |H(w)|^2, (frames, bins from 0 to half the sampling rate).
        order: The highest coefficient's number.
        alpha: The all-pass filter's coefficient.

    Returns:
        (frames, order + 1).
    """
    bins = power.shape[1]
    cepstrum = np.fft.irfft(np.log(power))[:, :bins]
    cepstrum[:, [0, -1]] /= 2
    return cepstrum @ _bending(bins, order, alpha)


def from_periodogram(power: np.ndarray, order: int, alpha: float) -> np.ndarray:
    """Mel-cepstrum under which frames of speech are likeliest (SPTK's mcep).

    It minimizes the mean of power / |H(w)|^2 + log |H(w)|^2 over all frequencies, by
    Newton's method.

    Args:
        power: Periodograms, (frames, bins from 0 to half the sampling rate).
        order: The highest coefficient's number.
        alpha: The all-pass filter's coefficient.

    Returns:
        (frames, order + 1).
    """
    bins = power.shape[1]
    numbers = np.arange(order + 1)
    cosines = np.cos(np.outer(np.arange(2 * order + 1), _bent(bins, alpha)))
    # The bins are the upper half of a circle.
    weights = np.full(bins, 1 / (bins - 1))
    weights[[0, -1]] /= 2
    flat = (-alpha) ** numbers  # correlation of a residual that is one everywhere
    differences = np.abs(np.subtract.outer(numbers, numbers))
    sums = np.add.outer(numbers, numbers)

    cepstra = from_envelope(power, order, alpha)
    running = np.arange(len(power))
    means = np.full(len(power), np.inf)
    for step in range(1, MAX_STEPS + 1):
        residual = power[running] * np.exp(-2 * cepstra[running] @ cosines[: order + 1])
        correlation = residual * weights @ cosines.T
        if step >= MIN_STEPS:
            mean = correlation[:, 0]
            moving = np.abs(mean - means[running]) >= TOLERANCE * mean
            running, correlation = running[moving], correlation[moving]
        means[running] = correlation[:, 0]
        hessian = correlation[:, differences] + correlation[:, sums]
        gradient = correlation[:, : order + 1] - flat
        cepstra[running] += np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return cepstra


def _bent(bins: int, alpha: float) -> np.ndarray:
    """Bent frequencies of bins from 0 to half the sampling rate, in radians."""
    w = np.linspace(0, np.pi, bins)
    return w + 2 * np.arctan2(alpha * np.sin(w), 1 - alpha * np.cos(w))


@lru_cache(maxsize=4)
def _bending(bins: int, order: int, alpha: float) -> np.ndarray:
    """Each quefrency's mel-cepstrum, (bins, order + 1).

    That of quefrency n is the impulse response of the inverse filter's n-th power; it
    has died away within four times the bins.
    """
    unbent = _bent(4 * bins, -alpha)
    response = np.exp(-1j * np.outer(np.arange(bins), unbent))
    return np.fft.irfft(response)[:, : order + 1]
