"""Teacher forcing by durations: those of speech, and its pitch and energy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle.search import Durations, Energy, Pitch
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.session import run
from espnet_onnx_plugin.runtime.synthesis.features import Graphs
from espnet_onnx_plugin.runtime.synthesis.model_inputs import Given, whole_numbers

logger = logging.getLogger(__name__)


def checked_durations(durations: Given, symbols: int) -> np.ndarray:
    """Frames of each of so many symbols, as integers.

    Raises:
        PluginError: if they are not what durations can be.
    """
    frames = whole_numbers("durations", durations)
    if len(frames) != symbols:
        raise PluginError(
            f"{len(frames)} durations are given for {symbols} symbols; give one for "
            "each"
        )
    if (frames < 0).any() or not frames.any():
        raise PluginError("durations have to be 0 or above, and not all 0")
    return frames


def path_of(symbol_of_frame: np.ndarray, symbols: int) -> np.ndarray:
    """(frames,) -> 1 at each frame's symbol, (frames, symbols)."""
    return (symbol_of_frame[:, None] == np.arange(symbols)).astype(np.float32)


class Alignment(NamedTuple):
    """Speech in VITS' hidden frames, and which symbol each of them belongs to.

    Attributes:
        latents: (frames, dim).
        path: 1 at each frame's symbol (frames, symbols).
    """

    latents: np.ndarray
    path: np.ndarray


def align(outputs: Mapping[str, np.ndarray]) -> Alignment:
    """Align speech and text.

    Args:
        outputs: of the graph ``alignment``: latents (frames, dim), and the log
            likelihood of each frame under each symbol (frames, symbols).
    """
    likelihood = outputs["likelihood"]
    path = path_of(maximum_path(likelihood), likelihood.shape[1])
    return Alignment(outputs["latents"], path)


def maximum_path(scores: np.ndarray) -> np.ndarray:
    """The monotonic path of the highest score.

    Glow-TTS (arXiv:2005.11129), section 3.2.

    Args:
        scores: (frames, symbols).

    Returns:
        The symbol of each frame (frames,): the first, the last, and none left out.

    Raises:
        PluginError: if there are more symbols than frames.
    """
    frames, symbols = scores.shape
    if frames < symbols:
        raise PluginError(
            f"speech of {frames} frames cannot be aligned with {symbols} symbols; give "
            "the speech of this text"
        )
    total = np.full_like(scores, -np.inf)
    total[0, 0] = scores[0, 0]
    for frame in range(1, frames):
        before = total[frame - 1]
        total[frame] = np.maximum(before, np.append(-np.inf, before[:-1]))
        total[frame] += scores[frame]
    path = np.empty(frames, np.int64)
    symbol = symbols - 1
    for frame in range(frames - 1, -1, -1):
        path[frame] = symbol
        if symbol and total[frame - 1, symbol] < total[frame - 1, symbol - 1]:
            symbol -= 1
    return path


def variances_of_speech(
    graphs: Graphs,
    speech: Mapping[str, np.ndarray],
    search: Durations,
    durations: np.ndarray,
) -> dict[str, np.ndarray]:
    """Pitch and energy of speech, of each symbol and normalized.

    Args:
        graphs: with ``energy``, where the model has one.
        speech: speech (samples,) and feats (frames, dim).
        search: of the manifest: how pitch and energy are made.
        durations: frames of each symbol.

    Returns:
        pitch and energy (symbols, 1), of a model that has them.

    Raises:
        PluginError: if the durations are not those of the speech.
    """
    frames, made = len(speech["feats"]), {}
    if search.pitch is not None:
        values = pitch_of_frames(speech["speech"], search.pitch)
        made["pitch"] = _of_symbols(values, frames, durations, search.pitch, True)
    if search.energy is not None:
        values = run(graphs["energy"], speech)["energy_of_frames"]
        made["energy"] = _of_symbols(values, frames, durations, search.energy, False)
    return made


def pitch_of_frames(speech: np.ndarray, settings: Pitch) -> np.ndarray:
    """Fundamental frequency by WORLD, as ``espnet2.tts.feats_extract.dio.Dio``.

    Args:
        speech: (samples,).
        settings: those of ``Dio``.

    Returns:
        (frames,), 0 where there is none.

    Raises:
        PluginError: if pyworld is not installed.
    """
    try:
        import pyworld
    except ImportError:
        raise PluginError(
            "a model that is taught pitch needs pyworld: pip install pyworld"
        )
    samples, rate = speech.astype(np.float64), settings.fs
    f0, times = pyworld.dio(
        samples,
        rate,
        f0_floor=settings.f0min,
        f0_ceil=settings.f0max,
        frame_period=1000 * settings.hop_length / rate,
    )
    f0 = pyworld.stonemask(samples, f0, times, rate)
    voiced = np.flatnonzero(f0)
    if not len(voiced):
        logger.warning("no frame of the speech is voiced")
    elif settings.use_continuous_f0:
        f0 = np.interp(np.arange(len(f0)), voiced, f0[voiced])
    if settings.use_log_f0:
        f0[f0 != 0] = np.log(f0[f0 != 0])
    return f0.astype(np.float32)


def pitch_of_song(speech: np.ndarray, frames: int, settings: Pitch) -> np.ndarray:
    """Pitch of each frame (frames,), normalized; see :func:`pitch_of_frames`."""
    return _normalized(_as_long(pitch_of_frames(speech, settings), frames), settings)


def _of_symbols(
    values: np.ndarray,
    frames: int,
    durations: np.ndarray,
    settings: Pitch | Energy,
    above_zero: bool,
) -> np.ndarray:
    """Means of each symbol's frames, normalized, (symbols, 1)."""
    factor = settings.reduction_factor
    values = _as_long(values, frames)
    ends = (durations * factor).cumsum()
    if not 0 <= frames - ends[-1] < factor:
        raise PluginError(
            f"the durations are those of {ends[-1]} frames, the speech has {frames}"
        )
    means = np.zeros(len(durations), np.float32)
    for symbol, (first, last) in enumerate(zip(np.append(0, ends), ends)):
        own = values[first:last]
        own = own[own > 0] if above_zero else own
        if len(own):
            means[symbol] = own.mean()
    return _normalized(means, settings)[:, None]


def _as_long(values: np.ndarray, frames: int) -> np.ndarray:
    """(frames,), with zeros for those that are missing."""
    return np.pad(values, (0, max(frames - len(values), 0)))[:frames]


def _normalized(values: np.ndarray, settings: Pitch | Energy) -> np.ndarray:
    if settings.shift is not None:
        values = values - np.float32(settings.shift)
    if settings.scale is not None:
        values = values / np.float32(settings.scale)
    return values
