"""Enrollments of speakers who are to be extracted: read, and made embeddings of."""

from __future__ import annotations

import hashlib

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.enhancement import Enrollment
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.enhancement import stft
from espnet_onnx_plugin.runtime.enhancement.enhancer import enhancement_of
from espnet_onnx_plugin.runtime.io.audio import READERS

#: So many embeddings are kept.
_KEPT = 1024


def enrollment_of(bundle: Bundle) -> Enrollment:
    """Description of what a model reads of a speaker.

    Raises:
        PluginError: if it is told of none.
    """
    enrollment = enhancement_of(bundle.manifest).enrollment
    if enrollment is None:
        raise PluginError(f"{bundle.path} is not told whom to extract")
    return enrollment


def read_enrollment(value: str, described: Enrollment) -> np.ndarray:
    """An enrollment as ``TSEPreprocessor`` of ESPnet reads it in inference: whole.

    Args:
        value: of a line of ``enroll_spkN.scp``: the path of an audio file, or, of a
            speaker embedding, of a ``.npy`` file.
        described: what the model reads.

    Returns:
        (samples,), or (size,), in float32.

    Raises:
        PluginError: if it cannot be read.
    """
    if value.startswith("*"):
        raise PluginError(
            f"enrollment '{value}' is drawn at random in training: name a file"
        )
    if described.reads == "features":
        raise PluginError(
            "the model reads features of enrollments, which ESPnet's preprocessor does "
            "not make: call SeparateSpeech of espnet_onnx_plugin.runtime.enh_tse"
        )
    kind = "sound" if described.reads == "waveform" else "npy"
    return np.asarray(READERS[kind](value, "float32").array, np.float32)


def made_up_enrollment(
    described: Enrollment, random: np.random.Generator
) -> np.ndarray:
    """Noise that a model takes for an enrollment, of any length.

    Args:
        described: what it reads.
        random: where the noise comes from.
    """
    length = described.min_length + int(random.integers(2000, 6000))
    shapes = {
        "waveform": (length,),
        "features": (length // 50, described.size),
        "embedding": (described.size,),
    }
    made = 0.1 * random.standard_normal(shapes[described.reads])
    return made.astype(np.float32)


class Enroller:
    """Makes embeddings of enrollments, each once.

    Args:
        bundle: where the graph ``enrollment`` lies.
        device: where it runs.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._described = enrollment_of(bundle)
        self._analysis = enhancement_of(bundle.manifest).analysis
        self._graph = Session(bundle, "enrollment", device)
        self._known: dict[bytes, np.ndarray] = {}

    def check(self, enrollment: np.ndarray) -> np.ndarray:
        """An enrollment as the graph reads it, in float32.

        Raises:
            PluginError: if the model cannot take it.
        """
        wave, size = np.asarray(enrollment, np.float32), self._described.size
        reads, least = self._described.reads, self._described.min_length
        if reads == "embedding" and wave.ndim == 2 and len(wave) == 1:
            wave = wave[0]  # as ESPnet's preprocessor makes it
        wanted = {"waveform": "(samples,)", "features": f"(frames, {size})"}
        fits = wave.ndim == 2 and wave.shape[1] == size
        if reads != "features":
            fits = wave.ndim == 1 and (reads == "waveform" or len(wave) == size)
        if not fits:
            raise PluginError(
                f"an enrollment of shape {wave.shape} has to be "
                f"{wanted.get(reads, f'({size},)')}"
            )
        if reads != "embedding" and len(wave) < least:
            raise PluginError(
                f"an enrollment of length {len(wave)} is too short, the model needs "
                f"{least}"
            )
        if not np.isfinite(wave).all():
            raise PluginError("the enrollment has values that are not numbers")
        return wave

    def __call__(self, enrollment: np.ndarray) -> np.ndarray:
        """Embedding (size,) of an enrollment, see :meth:`check`."""
        wave = np.ascontiguousarray(self.check(enrollment))
        key = hashlib.sha256(wave.tobytes()).digest()
        if key not in self._known:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = self._embedding(wave)
        return self._known[key]

    def _embedding(self, wave: np.ndarray) -> np.ndarray:
        inputs = {"speech": wave, "features": wave}
        if self._described.reads == "waveform" and self._analysis is not None:
            spectrum = stft.transform(wave, self._analysis)
            inputs["spectrum"] = np.stack((spectrum.real, spectrum.imag), axis=-1)
        return run(self._graph, inputs)["embedding"]
