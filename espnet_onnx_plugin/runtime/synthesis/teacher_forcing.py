"""What a text-to-speech model is taught by: durations, pitch and energy of speech."""

import logging
from typing import Dict, Mapping, Optional, Union

import numpy as np

from espnet_onnx_plugin.bundle.search import Durations, Energy, Pitch
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.synthesis.inputs import whole_numbers

logger = logging.getLogger(__name__)

Arrays = Dict[str, np.ndarray]


def checked_durations(durations: np.ndarray, symbols: int) -> np.ndarray:
    """Frames of each of so many symbols, as integers.

    Raises:
        PluginError: if they are not what durations can be.
    """
    durations = whole_numbers("durations", durations)
    if len(durations) != symbols:
        raise PluginError(
            f"{len(durations)} durations are given for {symbols} symbols; give one for "
            "each"
        )
    if (durations < 0).any() or not durations.any():
        raise PluginError("durations have to be 0 or above, and not all 0")
    return durations


def path_of(symbol_of_frame: np.ndarray, symbols: int) -> np.ndarray:
    """(frames,) -> 1 at each frame's symbol, (frames, symbols)."""
    return (symbol_of_frame[:, None] == np.arange(symbols)).astype(np.float32)


def align(aligned: Arrays) -> Arrays:
    """What VITS makes of speech, from the outputs of the graph ``alignment``.

    Args:
        aligned: latents (frames, dim), and the log likelihood of each frame under each
            symbol (frames, symbols).

    Returns:
        What the vocoder reads, and the durations and the path between the two.
    """
    likelihood = aligned["likelihood"]
    path = path_of(best_path(likelihood), likelihood.shape[1])
    return {"feats": aligned["latents"], "att_w": path, "duration": path.sum(axis=0)}


def best_path(scores: np.ndarray) -> np.ndarray:
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


def taught_variances(
    sessions: Mapping[str, Session],
    pool: Mapping[str, np.ndarray],
    search: Durations,
    durations: np.ndarray,
) -> Arrays:
    """Pitch and energy of speech, of each symbol and normalized.

    Args:
        sessions: with ``energy``, where the model has one.
        pool: the speech (samples,) and its features (frames, dim).
        search: of the manifest: how pitch and energy are made.
        durations: frames of each symbol.

    Returns:
        pitch and energy (symbols, 1), of a model that has them.

    Raises:
        PluginError: if the durations are not those of the speech.
    """
    made = {}
    if search.pitch is not None:
        values = pitch_of_frames(pool["speech"], search.pitch)
        made["pitch"] = _of_symbols(values, pool, durations, search.pitch, True)
    if search.energy is not None:
        values = run(sessions["energy"], pool)["energy_of_frames"]
        made["energy"] = _of_symbols(values, pool, durations, search.energy, False)
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


def _of_symbols(
    values: np.ndarray,
    pool: Mapping[str, np.ndarray],
    durations: np.ndarray,
    settings: Union[Pitch, Energy],
    above_zero: bool,
) -> np.ndarray:
    """Means of each symbol's frames, normalized, (symbols, 1)."""
    frames, factor = len(pool["feats"]), settings.reduction_factor
    values = np.pad(values, (0, max(frames - len(values), 0)))[:frames]
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
    return _normalized(means, settings.shift, settings.scale)[:, None]


def _normalized(
    values: np.ndarray, shift: Optional[float], scale: Optional[float]
) -> np.ndarray:
    if shift is not None:
        values = values - np.float32(shift)
    return values if scale is None else values / np.float32(scale)
