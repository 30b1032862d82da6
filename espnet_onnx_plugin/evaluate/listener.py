"""What an ASR model hears in synthesized speech."""

import unicodedata
from pathlib import Path
from typing import Union

import numpy as np

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.io.data import READERS
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError
from espnet_onnx_plugin.tasks import TASKS, open_model


class Listener:
    """An ASR bundle with the decoding options that are ESPnet's defaults.

    Args:
        model_dir: The bundle.

    Raises:
        PluginError: If it is not one that recognizes one speaker's waveform.
    """

    def __init__(self, model_dir: Union[str, Path]):
        bundle = read_bundle(model_dir)
        manifest = bundle.manifest
        listening = [task.name for task in TASKS.values() if task.listens]
        if manifest.task not in listening or manifest.speakers is not None:
            raise PluginError(
                f"{model_dir} cannot be listened with: it has to be a model of task "
                f"{' or '.join(listening)}, for one speaker"
            )
        if manifest.speech.kind != "waveform":
            raise PluginError(f"{model_dir} reads features, not waveforms")
        self._model = open_model(bundle)
        self._rate = manifest.speech.sampling_rate

    def __call__(self, path: Path) -> str:
        """Return the text that is heard in a file, nothing where it is too short."""
        audio = READERS["sound"](str(path))
        return self.hear(audio.array, audio.rate)

    def hear(self, wave: np.ndarray, rate: int) -> str:
        """Return the text that is heard in a waveform, likewise.

        Args:
            wave: (samples,).
            rate: Its sampling rate.
        """
        if rate != self._rate:
            soxr = import_package("soxr", f"speech at {rate} Hz", "soxr")
            wave = soxr.resample(wave, rate, self._rate)
        try:
            results = self._model(wave.astype(np.float32))
        except TooShortUttError:
            return ""
        files = self._model.files(results)
        text = files.get("1best_recog/text", "")
        return files.get("1best_recog/text_nospecial", text)


def plain(text: str) -> str:
    """Return a text in lower case, without punctuation, with single spaces."""
    kept = (c for c in text.lower() if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())
