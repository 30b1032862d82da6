"""Short-time Fourier transforms and their inverses, as torch and ESPnet compute them.

They stand outside the graphs: ONNX has no complex numbers, and a fast transform is a
small part of what the product with its basis takes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from espnet_onnx_plugin.bundle import Stft

#: Periodic windows by torch's name, as sums of cosines.
_COSINES = {
    "hann": (0.5, -0.5),
    "hamming": (0.54, -0.46),
    "blackman": (0.42, -0.5, 0.08),
}


def window_of(stft: Stft) -> np.ndarray:
    """The window, (n_fft,) float64: a shorter one stands in the middle of zeros."""
    n = np.arange(stft.win_length)
    window: np.ndarray
    if stft.window is None:
        window = np.ones(stft.win_length)
    elif stft.window == "bartlett":
        window = 1 - np.abs(2 * n / stft.win_length - 1)
    elif stft.window == "kaiser":
        window = np.kaiser(stft.win_length + 1, 12.0)[:-1]
    else:
        angle = 2 * np.pi / stft.win_length * n
        terms = [w * np.cos(k * angle) for k, w in enumerate(_COSINES[stft.window])]
        window = np.sum(terms, axis=0)
    left = (stft.n_fft - stft.win_length) // 2
    return np.pad(window, (left, stft.n_fft - stft.win_length - left))


def at_rate(stft: Stft, fs: int | None) -> Stft:
    """The transform at a sampling rate, where its sizes follow it; None: unknown."""
    if stft.default_fs is None or fs is None or fs == stft.default_fs:
        return stft
    names = ("n_fft", "hop_length", "win_length")
    sizes = {name: getattr(stft, name) * fs // stft.default_fs for name in names}
    return replace(stft, **sizes)


def transform(wave: np.ndarray, stft: Stft) -> np.ndarray:
    """Spectrum (frames, [channels,] bins) of a waveform (samples[, channels]).

    Complex, in the precision of the waveform. As ``espnet2.enh.encoder.stft_encoder``.
    """
    wave = np.moveaxis(wave, 0, -1)
    if stft.center:
        pad = [(0, 0)] * (wave.ndim - 1) + [(stft.n_fft // 2,) * 2]
        wave = np.pad(wave, pad, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(wave, stft.n_fft, axis=-1)
    return spectrum_of(np.moveaxis(frames[..., :: stft.hop_length, :], -2, 0), stft)


def spectrum_of(frames: np.ndarray, stft: Stft) -> np.ndarray:
    """Spectrum (..., bins) of frames (..., n_fft)."""
    frames = frames * window_of(stft).astype(frames.dtype)
    spectrum = np.fft.rfft(frames) if stft.onesided else np.fft.fft(frames)
    if stft.normalized:
        spectrum = spectrum / np.sqrt(frames.dtype.type(stft.n_fft))
    return _compressed(spectrum, stft)


def inverse(spectrum: np.ndarray, stft: Stft, samples: int) -> np.ndarray:
    """Waveforms (..., samples) of spectra (..., frames, bins).

    As ``espnet2.enh.decoder.stft_decoder``, which is torch's least squares inverse.
    What no frame covers is zero.
    """
    frames = frames_of(spectrum, stft)
    wave = overlapped(frames, stft.hop_length)
    window = window_of(stft).astype(frames.dtype)
    weight = np.broadcast_to(window**2, (frames.shape[-2], stft.n_fft))
    weight = overlapped(weight, stft.hop_length)
    begin = stft.n_fft // 2 if stft.center else 0
    wave = wave[..., begin : begin + samples]
    weight = weight[begin : begin + samples]
    wave = divided(wave, weight)
    missing = samples - wave.shape[-1]
    return np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, missing)])


def frames_of(spectrum: np.ndarray, stft: Stft) -> np.ndarray:
    """Frames (..., n_fft) of a spectrum (..., bins), windowed once more."""
    spectrum = _expanded(spectrum, stft)
    real = np.zeros(0, spectrum.dtype).real.dtype
    if stft.normalized:
        spectrum = spectrum * np.sqrt(real.type(stft.n_fft))
    # Of both halves torch takes the first.
    frames = np.fft.irfft(spectrum[..., : stft.n_fft // 2 + 1], stft.n_fft)
    return frames * window_of(stft).astype(real)


def divided(wave: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A sum of windowed frames by that of the squared windows; 0 where these are 0."""
    return np.divide(wave, weight, out=np.zeros_like(wave), where=weight > 1e-11)


def overlapped(frames: np.ndarray, hop: int) -> np.ndarray:
    """Sum of frames (..., frames, size), each ``hop`` behind the one before."""
    *others, count, size = frames.shape
    pieces = -(-size // hop)
    frames = np.pad(
        frames, [(0, 0)] * (frames.ndim - 1) + [(0, pieces * hop - size)]
    ).reshape(*others, count, pieces, hop)
    total = np.zeros((*others, count + pieces - 1, hop), frames.dtype)
    for piece in range(pieces):
        total[..., piece : piece + count, :] += frames[..., piece, :]
    return total.reshape(*others, -1)[..., : (count - 1) * hop + size]


def _compressed(spectrum: np.ndarray, stft: Stft) -> np.ndarray:
    """With magnitudes as the model reads them, see :class:`Stft`."""
    if stft.transform is None:
        return spectrum
    if stft.transform == "log":
        spectrum = _with_magnitude(spectrum, np.log1p(np.abs(spectrum)))
    elif stft.exponent != 1:
        spectrum = _with_magnitude(spectrum, np.abs(spectrum) ** stft.exponent)
    return spectrum * spectrum.dtype.type(stft.factor)


def _expanded(spectrum: np.ndarray, stft: Stft) -> np.ndarray:
    """The inverse of :func:`_compressed`."""
    if stft.transform is None:
        return spectrum
    spectrum = spectrum / spectrum.dtype.type(stft.factor)
    if stft.transform == "log":
        return _with_magnitude(spectrum, np.expm1(np.abs(spectrum)))
    if stft.exponent != 1:
        return _with_magnitude(spectrum, np.abs(spectrum) ** (1 / stft.exponent))
    return spectrum


def _with_magnitude(spectrum: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    angle = np.angle(spectrum)
    made = np.empty_like(spectrum)
    made.real, made.imag = magnitude * np.cos(angle), magnitude * np.sin(angle)
    return made
