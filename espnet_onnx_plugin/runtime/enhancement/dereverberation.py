"""Dereverberation by weighted prediction errors (WPE), as ESPnet computes it.

Spectra are (bins, channels, frames), in double precision as in ESPnet, and every
frequency is computed at once. As ``espnet2.enh.layers.wpe``, which is after
https://github.com/fgnt/nara_wpe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espnet_onnx_plugin.bundle.enhancement import Wpe

#: Least power that frames are weighed by.
LEAST_POWER = 1e-6


def delayed(spectrum: np.ndarray, delays: Sequence[int]) -> np.ndarray:
    """Each frame with earlier ones (bins, delays * channels, frames).

    Frames before the first are zero.
    """
    bins, channels, frames = spectrum.shape
    stacked = np.zeros((bins, len(delays), channels, frames), spectrum.dtype)
    for i, delay in enumerate(delays):
        stacked[:, i, :, delay:] = spectrum[..., : max(frames - delay, 0)]
    return stacked.reshape(bins, -1, frames)


def dereverberated(spectrum: np.ndarray, power: np.ndarray, wpe: Wpe) -> np.ndarray:
    """Weighted prediction error: take away what the past predicts.

    Args:
        spectrum: (bins, channels, frames).
        power: of the speech (bins, frames).
        wpe: what a frame is predicted from.

    Returns:
        (bins, channels, frames).
    """
    past = delayed(spectrum, range(wpe.delay, wpe.delay + wpe.taps))
    first = wpe.delay + wpe.taps - 1  # the first frame whose past is whole
    seen, target = past[..., first:], spectrum[..., first:]
    weighted = seen.conj() / np.maximum(power, 1e-10)[:, None, first:]
    matrix = weighted @ seen.swapaxes(1, 2) + 1e-10 * np.eye(past.shape[1])
    filters = np.linalg.solve(matrix, weighted @ target.swapaxes(1, 2))
    return spectrum - filters.swapaxes(1, 2) @ past
