"""How far a synthesized waveform is from another: mel-cepstral distortion, log-F0 RMSE.

The measures, with their settings, are those of ESPnet's ``evaluate_mcd.py`` and
``evaluate_f0.py`` (egs2/TEMPLATE/tts1/pyscripts/utils), but for one thing: frames are
aligned by the best path, where fastdtw's is near it. Of waveforms that are much alike
the figures are the same to the last digits. F0 needs pyworld.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate import mel_cepstrum
from espnet_onnx_plugin.runtime.io.lists import read_scp

# Order and all-pass coefficient of the mel-cepstrum, by sampling rate.
MEL_CEPSTRA = {
    16000: (23, 0.42),
    22050: (34, 0.45),
    24000: (34, 0.46),
    44100: (39, 0.53),
    48000: (39, 0.55),
}
WINDOW = 1024
SHIFT = 256
FLOOR = 1e-6  # of a periodogram
F0_RANGE = (40, 800)
SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class Measures:
    """Distances of a waveform to its reference.

    Attributes:
        mcd: Mel-cepstral distortion in dB, energy included; None where a waveform is
            shorter than a window.
        log_f0_rmse: Root mean square error of the natural logarithm of F0; None where
            no frame is voiced in both.
    """

    mcd: float | None
    log_f0_rmse: float | None


def measure(reference: np.ndarray, other: np.ndarray, rate: int) -> Measures:
    """Measure a waveform.

    Args:
        reference: (samples,), int16, or floating point from -1 to 1.
        other: Likewise.
        rate: Sampling rate of both, in Hz.

    Raises:
        PluginError: If the measures are not defined at this rate, a sample is not
            finite, or pyworld is missing.
    """
    _check_rate(rate)
    return _measure(_Voice(reference, rate), _Voice(other, rate))


def _measure(reference: _Voice, other: _Voice) -> Measures:
    if reference.short or other.short:
        return Measures(None, None)
    return Measures(_mcd(reference, other), _log_f0_rmse(reference, other))


def mel_cepstral_distortion(
    reference: np.ndarray, other: np.ndarray, rate: int
) -> float | None:
    """Measure a waveform as :func:`measure` does, without F0 and so without pyworld."""
    _check_rate(rate)
    voices = [_Voice(wave, rate) for wave in (reference, other)]
    return None if any(voice.short for voice in voices) else _mcd(*voices)


def _check_rate(rate: int) -> None:
    if rate not in MEL_CEPSTRA:
        raise PluginError(
            f"no mel-cepstral distortion at {rate} Hz; it is defined at "
            f"{', '.join(map(str, MEL_CEPSTRA))} Hz"
        )


def measure_files(pairs: Iterable[tuple[Path, Path]]) -> list[Measures]:
    """Measure waveforms in files, by a reference each; F0 is sought once in a file.

    Raises:
        PluginError: As of :func:`measure`, and if sampling rates differ or a file
            cannot be read.
    """

    @functools.cache
    def voice(path: Path) -> _Voice:
        wave, rate = read_wav(path)
        _check_rate(rate)
        return _Voice(wave, rate)

    measures = []
    for reference, other in pairs:
        rate, other_rate = voice(reference).rate, voice(other).rate
        if rate != other_rate:
            raise PluginError(
                f"{other} is sampled at {other_rate} Hz, {reference} at {rate} Hz"
            )
        measures.append(_measure(voice(reference), voice(other)))
    return measures


class _Voice:
    """Parts of a waveform that are compared, each worked out when first asked for.

    Args:
        wave, rate: As of :func:`measure`.
    """

    def __init__(self, wave: np.ndarray, rate: int):
        self.wave, self.rate = _as_pcm(wave), rate

    @property
    def short(self) -> bool:
        """Whether it is shorter than a window."""
        return len(self.wave) < WINDOW

    @functools.cached_property
    def cepstrum(self) -> np.ndarray:
        """Mel-cepstrum of its periodogram (frames, order)."""
        frames = np.lib.stride_tricks.sliding_window_view(self.wave, WINDOW)[::SHIFT]
        window = np.hamming(WINDOW)
        spectra = np.fft.rfft(frames * window / np.linalg.norm(window))
        return mel_cepstrum.from_periodogram(
            np.abs(spectra) ** 2 + FLOOR, *MEL_CEPSTRA[self.rate]
        )

    @functools.cached_property
    def world(self) -> tuple[np.ndarray, np.ndarray]:
        """Mel-cepstrum and F0, 0 where unvoiced, as World's vocoder sees them."""
        pyworld = _pyworld()
        low, high = F0_RANGE
        period = SHIFT / self.rate * 1000
        f0, times = pyworld.harvest(
            self.wave, self.rate, low, high, frame_period=period
        )
        envelope = pyworld.cheaptrick(self.wave, f0, times, self.rate, fft_size=WINDOW)
        return mel_cepstrum.from_envelope(envelope, *MEL_CEPSTRA[self.rate]), f0


def f0_contour(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return F0 in Hz (frames,), 0 where unvoiced, at every :data:`SHIFT` samples.

    By World's DIO, which is faster than the Harvest of :func:`measure`.

    Args:
        wave: (samples,), as of :func:`measure`.
        rate: Samples a second.

    Raises:
        PluginError: If pyworld is missing.
    """
    pyworld, wave = _pyworld(), _as_pcm(wave)
    low, high = F0_RANGE
    period = SHIFT / rate * 1000
    f0, times = pyworld.dio(wave, rate, low, high, frame_period=period)
    return pyworld.stonemask(wave, f0, times, rate)


def average(measures: Iterable[Measures]) -> Measures:
    """Return the mean of each measure over the utterances that have it."""
    measures = list(measures)

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    return Measures(
        mean(m.mcd for m in measures), mean(m.log_f0_rmse for m in measures)
    )


def wav_files(path: Path) -> dict[str, Path]:
    """Return files by utterance, of a wav.scp or of a directory and those below it."""
    if not path.is_dir():
        return {key: Path(value) for key, value in read_scp(path).items()}
    files: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix in SUFFIXES and files.setdefault(file.stem, file) != file:
            raise PluginError(f"two files of one utterance: {files[file.stem]}, {file}")
    return files


def read_wav(path: Path, channel: int | None = None) -> tuple[np.ndarray, int]:
    """Return the samples, (samples,) int16, and their rate.

    Args:
        path: Of the file.
        channel: The one to take of several; None: there must not be several.

    Raises:
        PluginError: If it cannot be read, or has several channels.
    """
    import soundfile

    try:
        wave, rate = soundfile.read(str(path), dtype="int16")
    except (RuntimeError, OSError) as error:
        raise PluginError(f"cannot read audio file {path}: {error}") from error
    if wave.ndim > 1 and channel is not None:
        wave = wave[:, channel]
    if wave.ndim > 1:
        raise PluginError(f"{path} has {wave.shape[1]} channels, speech has one")
    return wave, rate


def _as_pcm(wave: np.ndarray) -> np.ndarray:
    """Return the waveform as the 16 bits that ESPnet writes of it, in float64."""
    if not np.issubdtype(wave.dtype, np.floating):
        return wave.astype(np.float64)
    if not np.isfinite(wave).all():
        raise PluginError("a waveform that is not finite cannot be measured")
    # As libsndfile rounds.
    return np.clip(np.floor(wave.astype(np.float64) * 2**15), -(2**15), 2**15 - 1)


def _mcd(reference: _Voice, other: _Voice) -> float:
    i, j = time_warp(reference.cepstrum, other.cepstrum)
    squares = np.sum((reference.cepstrum[i] - other.cepstrum[j]) ** 2, axis=1)
    return float(np.mean(10 / math.log(10) * np.sqrt(2 * squares)))


def _log_f0_rmse(reference: _Voice, other: _Voice) -> float | None:
    (cepstrum, f0), (other_cepstrum, other_f0) = reference.world, other.world
    i, j = time_warp(cepstrum, other_cepstrum)
    voiced = (f0[i] > 0) & (other_f0[j] > 0)
    if not voiced.any():
        return None
    errors = np.log(f0[i][voiced]) - np.log(other_f0[j][voiced])
    return math.sqrt(np.mean(errors**2))


def time_warp(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Align two sequences by dynamic time warping, without slopes or weights.

    Args:
        a: (frames, dim).
        b: (frames, dim), of other length if need be.

    Returns:
        The frames of each along the path of the least sum of Euclidean distances.
    """
    n, m = len(a), len(b)
    distances = np.stack([np.linalg.norm(b - frame, axis=1) for frame in a])
    # With a margin of infinity around; one antidiagonal after the other.
    totals = np.full((n + 1, m + 1), np.inf)
    totals[0, 0] = 0
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        before = np.minimum(totals[i - 1, j], totals[i, j - 1])
        before = np.minimum(before, totals[i - 1, j - 1])
        totals[i, j] = distances[i - 1, j - 1] + before
    i, j = n, m
    path = []
    while i:
        path.append((i - 1, j - 1))
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(steps, key=totals.__getitem__)
    rows, columns = zip(*reversed(path))
    return np.array(rows), np.array(columns)


def _pyworld() -> ModuleType:
    try:
        import pyworld
    except ImportError:
        raise PluginError("F0 needs pyworld: pip install pyworld") from None
    return pyworld
