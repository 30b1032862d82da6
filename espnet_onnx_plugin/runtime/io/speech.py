"""Speech as the first graph takes it: checked, one channel, float32."""

from __future__ import annotations

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.audio import Audio


def check_values(speech: np.ndarray, expected: Speech) -> np.ndarray:
    """Refuse an input that no decoder can make anything of.

    Args:
        speech: as a user gives it.
        expected: the bundle's description of its input.

    Returns:
        ``speech`` as an array.

    Raises:
        PluginError: naming a shape or a type and the one that is expected, or the
            second of a value that is not a number.
    """
    speech = np.asarray(speech)
    if expected.kind != "waveform":
        shape = f"(frames, {expected.feature_dim})"
        wrong = speech.ndim != 2 or speech.shape[1] != expected.feature_dim
    else:
        shape = "(samples,) or (samples, channels)"
        wrong = speech.ndim not in (1, 2)
        if speech.ndim == 2:
            # Channels first. What is too short either way is left to ESPnet's answer.
            samples, channels = speech.shape
            wrong = channels > samples and channels >= expected.min_length
    if wrong:
        raise PluginError(
            f"the model takes input of shape {shape}, this one is {speech.shape}"
        )
    if speech.dtype.kind != "f":
        raise PluginError(
            f"the model takes numbers of type float, this input is of {speech.dtype}: "
            "scale integers as soundfile.read does, int16 by 1 / 32768"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(speech.astype(np.float32, copy=False))
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(speech), -1).all(axis=1))[0])
        value = speech[row][~finite[row]][0] if speech.ndim == 2 else speech[row]
        raise PluginError(
            f"the input is {value} at {expected.seconds(row):.3f} s, which is no "
            "number that a model can take"
        )
    return speech


def prepare(speech: np.ndarray, expected: Speech) -> np.ndarray:
    """An input as ESPnet's preprocessor and frontend hand it to the first layer.

    Args:
        speech: as it was read.
        expected: the bundle's description of its input.

    Returns:
        (samples,) or (frames, dim) float32; (samples, channels), too, where the model
        reads several.

    Raises:
        PluginError: see :func:`check_values`.
    """
    speech = check_values(speech, expected)
    if expected.volume_normalize is not None:
        peak = np.abs(speech).max(initial=0)
        if peak != 0:
            speech = speech * expected.volume_normalize / peak
    return one_channel(speech, expected)


def one_channel(speech: np.ndarray, expected: Speech) -> np.ndarray:
    """An input of any volume as the first layer takes it, see :func:`prepare`."""
    several = speech.ndim == 2 and not expected.all_channels
    if expected.kind == "waveform" and several:
        average = expected.average_channels
        speech = speech.mean(axis=1) if average else speech[:, 0]
    return np.ascontiguousarray(speech, dtype=np.float32)


def check_rate(key: str, audio: Audio, expected: Speech) -> None:
    """Refuse audio at another sampling rate than the model's.

    Raises:
        PluginError: naming the utterance and both rates.
    """
    waveform = expected.kind == "waveform"
    if waveform and audio.rate and audio.rate != expected.sampling_rate:
        raise PluginError(
            f"utterance '{key}' is sampled at {audio.rate} Hz, the model takes "
            f"{expected.sampling_rate} Hz; resample the data (--fs of the recipe)"
        )
