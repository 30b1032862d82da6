"""Speech to meaning with a bundle: the counterpart of ``espnet2.bin.slu_inference``."""

from __future__ import annotations

import numpy as np

from espnet_onnx_plugin.runtime import asr
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Utterance
from espnet_onnx_plugin.runtime.recognition.options import SluOptions
from espnet_onnx_plugin.runtime.recognition.transcripts import TranscriptReader, Words


class Speech2Understand(asr.Speech2Text):
    """Understand speech; a drop-in for ESPnet's class of the same name.

    Arguments are those of :class:`~espnet_onnx_plugin.runtime.asr.Speech2Text`.

    Examples:
        >>> speech2understand = Speech2Understand("exp/slu_train/onnx/int8")
        >>> speech2understand(speech)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "slu"
    options_class = SluOptions
    joint_task = None  # slu_inference has no option for joint models

    def _open(self) -> None:
        super()._open()
        transcript = self.bundle.manifest.transcript
        self._transcripts: TranscriptReader | None = None
        if transcript is not None:
            self._transcripts = TranscriptReader(self.bundle, transcript)

    def prepare(self, speech: np.ndarray, transcript: Words | None = None) -> Utterance:
        """Make the graphs' input of an utterance.

        Args:
            speech: see :meth:`.engine.SpeechModel.prepare`.
            transcript: what was said; none is an empty one. Models without
                postdecoder do not read it.
        """
        prepared = self._checked(speech)
        if self._transcripts is None:
            return prepared
        return Accompanied(prepared, {"transcript": self._transcripts.ids(transcript)})

    def __call__(
        self, speech: np.ndarray, transcript: Words | None = None
    ) -> asr.Results:
        """Understand one utterance; see :meth:`prepare`."""
        return self.batch([self.prepare(speech, transcript)])[0]
