"""Extraction of enrolled speakers: the bundles of task enh_tse."""

from __future__ import annotations

from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.enhancement.engine import Separator
from espnet_onnx_plugin.runtime.enhancement.enrollment import Enroller
from espnet_onnx_plugin.runtime.enhancement.options import ExtractionOptions


class SeparateSpeech(Separator):
    """A bundle's model, as ``espnet2.bin.enh_tse_inference.SeparateSpeech``.

    Arguments and attributes are those of
    :class:`~espnet_onnx_plugin.runtime.enhancement.engine.Separator`, the options those
    of :class:`~espnet_onnx_plugin.runtime.enhancement.options.ExtractionOptions`.
    """

    task = "enh_tse"
    options_class = ExtractionOptions

    def _open(self) -> None:
        super()._open()
        self._enroller = Enroller(self.bundle, self.device)

    def enroll(self, enrollment: np.ndarray) -> np.ndarray:
        """Embedding (size,) of a speaker, which is computed once.

        Args:
            enrollment: what the speaker has said (samples,), or features (frames, size)
                or an embedding (size,), where the model reads these.

        Raises:
            PluginError: if the model cannot take it.
        """
        return self._enroller(enrollment)

    def __call__(
        self, speech_mix: np.ndarray, fs: int = 8000, **kwargs: Any
    ) -> list[np.ndarray]:
        """Extract speakers from mixtures.

        Args:
            speech_mix: (utterances, samples).
            fs: samples a second.
            kwargs: ``enroll_ref1``, ``enroll_ref2`` and so on, the enrollments of each
                speaker: see :meth:`enroll`, with an axis of utterances before.

        Returns:
            Of each enrolled speaker (utterances, samples).

        Raises:
            PluginError: if a mixture or an enrollment cannot be used.
        """
        mixtures = self.batch(speech_mix)
        names = [f"enroll_ref{number + 1}" for number in range(self.num_spk)]
        enrolled = [kwargs[name] for name in names if name in kwargs]
        if not enrolled:
            raise PluginError(f"nobody is enrolled: give {', '.join(names)}")
        if any(len(speaker) != len(mixtures) for speaker in enrolled):
            raise PluginError(
                f"there are {len(mixtures)} mixtures, and other numbers of enrollments"
            )
        made = [
            self._waveforms(
                self.check(mix, fs),
                fs,
                {"embeddings": np.stack([self.enroll(s[i]) for s in enrolled])},
            )
            for i, mix in enumerate(mixtures)
        ]
        return list(np.stack(made, axis=1))
