"""ASR scoring of synthesized speech: character errors of a recognizer's transcripts."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import (
    ErrorCounts,
    count_errors,
    import_jiwer,
)
from espnet_onnx_plugin.evaluate.evaluator import open_on
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError
from espnet_onnx_plugin.tasks import TASKS


class AsrScorer:
    """An ASR bundle with the decoding options that are ESPnet's defaults.

    Args:
        model_dir: the bundle.
        device: where it runs.

    Raises:
        PluginError: if it is not one that recognizes one speaker's waveform.
    """

    def __init__(self, model_dir: str | Path, device: Device):
        bundle = read_bundle(model_dir)
        manifest = bundle.manifest
        scoring = [task.name for task in TASKS.values() if task.scores_speech]
        if manifest.task not in scoring or manifest.speakers is not None:
            raise PluginError(
                f"{model_dir} cannot be listened with: it has to be a model of task "
                f"{', '.join(scoring[:-1])} or {scoring[-1]}, for one speaker"
            )
        if manifest.speech.kind != "waveform":
            raise PluginError(f"{model_dir} reads features, not waveforms")
        import_jiwer()  # missed now, not after all has been synthesized
        self._model = open_on(device, bundle)
        self._rate = manifest.speech.sampling_rate

    def transcribe_file(self, path: Path) -> str:
        """Transcribe a file; nothing where it is too short."""
        audio = READERS["sound"](str(path))
        return self.transcribe(audio.array, audio.rate)

    def transcribe(self, wave: np.ndarray, rate: int) -> str:
        """Transcribe a waveform; nothing where it is too short.

        Args:
            wave: (samples,).
            rate: its sampling rate.
        """
        if rate != self._rate:
            soxr = import_package("soxr", f"speech at {rate} Hz", "soxr")
            wave = soxr.resample(wave, rate, self._rate)
        try:
            results = self._model.recognize(wave.astype(np.float32))
        except TooShortUttError:
            return ""
        files = self._model.files(results)
        text = files.get("1best_recog/text", "")
        return files.get("1best_recog/text_nospecial", text)


def normalize(text: str) -> str:
    """Put a text in lower case, without punctuation, with single spaces."""
    kept = (c for c in text.lower() if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())


def count_characters(
    texts: Mapping[str, str], transcribed: Mapping[str, str]
) -> ErrorCounts | None:
    """Count errors of characters, of which the space between words is one.

    Args:
        texts: what was to be said, by utterance.
        transcribed: transcripts of the same utterances or more.

    Returns:
        None where the texts hold no character.
    """
    references = [normalize(text) for text in texts.values()]
    hypotheses = [normalize(transcribed[key]) for key in texts]
    total = count_errors(references, hypotheses)
    return total if total.words else None
