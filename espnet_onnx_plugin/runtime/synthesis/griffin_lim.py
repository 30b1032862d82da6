"""Griffin and Lim's reconstruction of a waveform from its spectrogram, as ESPnet's."""

from __future__ import annotations

import atexit
import functools
import importlib
import shutil
import tempfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError

#: The smallest amplitude.
EPS = 1e-10


@functools.lru_cache(maxsize=None)
def _import_librosa() -> ModuleType:
    """Package librosa, of which numba compiles functions as it is imported.

    Where neither the package nor the user's home can be written to, numba has no place
    for what it compiles, and gives up: then that is a directory of this process.

    Raises:
        PluginError: if librosa is not installed.
    """
    try:
        import librosa
    except ImportError:
        raise PluginError(
            "a model without a vocoder makes its waveform by Griffin-Lim, which "
            "needs librosa: pip install 'espnet_onnx_plugin[tts]'"
        )
    try:
        importlib.import_module("librosa.core.spectrum")  # imported only when used
    except RuntimeError:
        import numba

        config: Any = numba.config  # which has its settings as attributes
        config.CACHE_DIR = tempfile.mkdtemp(prefix="numba.")
        atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)
    return librosa


class GriffinLim:
    """``espnet2.utils.griffin_lim.Spectrogram2Waveform``.

    librosa begins with random phases. ESPnet's are others in every run, these follow
    from the seed.

    Args:
        settings: n_fft, n_shift, win_length, window, n_iter; and fs, n_mels, fmin, fmax
            where the features are log Mel filterbanks.

    Raises:
        PluginError: if librosa is not installed.
    """

    def __init__(self, settings: Mapping[str, Any]):
        librosa = _import_librosa()
        self._settings = settings
        self._to_linear: np.ndarray | None = None
        if settings.get("n_mels") is not None:
            fmax = settings.get("fmax")
            basis = librosa.filters.mel(
                sr=settings["fs"],
                n_fft=settings["n_fft"],
                n_mels=settings["n_mels"],
                fmin=settings.get("fmin") or 0,
                fmax=settings["fs"] / 2 if fmax is None else fmax,
            )
            self._to_linear = np.linalg.pinv(basis)

    def __call__(self, feats: np.ndarray, seed: int) -> np.ndarray:
        """Make a waveform.

        Args:
            feats: log10 of the Mel filterbank (frames, n_mels), or the linear
                spectrogram (frames, n_fft // 2 + 1).
            seed: of the first phases.

        Returns:
            (samples,), float32.
        """
        librosa = _import_librosa()
        if self._to_linear is not None:
            feats = np.maximum(EPS, np.power(10.0, feats) @ self._to_linear.T)
        spectrogram = np.abs(feats.T)
        settings = self._settings
        return librosa.griffinlim(
            S=spectrogram,
            n_iter=settings["n_iter"],
            hop_length=settings["n_shift"],
            win_length=settings["win_length"],
            window=settings["window"],
            center=spectrogram.shape[1] > 1,
            random_state=seed,
        ).astype(np.float32)
