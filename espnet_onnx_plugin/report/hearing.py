"""What an ASR model hears in synthesized speech, counted in characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.counts import ErrorCounts
from espnet_onnx_plugin.runtime.data import READERS
from espnet_onnx_plugin.runtime.model import TooShortUttError
from espnet_onnx_plugin.runtime.packages import import_package
from espnet_onnx_plugin.runtime.results import result_files
from espnet_onnx_plugin.runtime.tasks import open_model

TASKS = ("asr", "s2t")


class Listener:
    """An ASR bundle with the decoding options that are ESPnet's defaults.

    Args:
        model_dir: The bundle.

    Raises:
        PluginError: If it is not one that recognizes one speaker's waveform.
    """

    def __init__(self, model_dir: Path):
        bundle = read_bundle(model_dir)
        manifest = bundle.manifest
        if manifest.task not in TASKS or manifest.speakers is not None:
            raise PluginError(
                f"{model_dir} cannot be listened with: it has to be a model of task "
                f"{' or '.join(TASKS)}, for one speaker"
            )
        if manifest.speech.kind != "waveform":
            raise PluginError(f"{model_dir} reads features, not waveforms")
        self._model = open_model(bundle)
        self._rate = manifest.speech.sampling_rate

    def __call__(self, path: Path) -> str:
        """Return the text that is heard in a file, nothing where it is too short."""
        audio = READERS["sound"](str(path))
        wave = audio.array
        if audio.rate != self._rate:
            soxr = import_package("soxr", f"speech at {audio.rate} Hz", "soxr")
            wave = soxr.resample(wave, audio.rate, self._rate)
        try:
            results = self._model(wave.astype(np.float32))
        except TooShortUttError:
            return ""
        files = result_files(results, None, self._model.lines)
        text = files.get("1best_recog/text", "")
        return files.get("1best_recog/text_nospecial", text)


def plain(text: str) -> str:
    """Return a text in lower case, without punctuation, with single spaces."""
    kept = (c for c in text.lower() if not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())


def count_characters(
    texts: Mapping[str, str], heard: Mapping[str, str]
) -> ErrorCounts | None:
    """Count errors of characters, of which the space between words is one.

    Args:
        texts: What was to be said, by utterance.
        heard: What was heard, of the same utterances or more.

    Returns:
        None where the texts hold no character.
    """
    jiwer = import_package("jiwer", "the character error rate", "jiwer")
    references = [plain(text) for text in texts.values()]
    hypotheses = [plain(heard[key]) for key in texts]
    counts = jiwer.process_characters(references, hypotheses)
    pairs = zip(references, hypotheses, strict=True)
    total = ErrorCounts(
        sentences=len(texts),
        words=counts.hits + counts.substitutions + counts.deletions,
        correct=counts.hits,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions,
        sentence_errors=sum(one != other for one, other in pairs),
    )
    return total if total.words else None
