"""Speech to meaning with a bundle: the counterpart of ``espnet2.bin.slu_inference``."""

from typing import Any, Optional, Union

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime import asr
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Utterance
from espnet_onnx_plugin.runtime.recognition.options import SluOptions as DecodeOptions
from espnet_onnx_plugin.runtime.recognition.results import Results
from espnet_onnx_plugin.runtime.text.converter import read_tokens

UNKNOWN = "<unk>"


class Speech2Understand(asr.Speech2Text):
    """Understand speech; a drop-in for ESPnet's class of the same name.

    Arguments are those of :class:`~espnet_onnx_plugin.runtime.asr.Speech2Text`.

    Examples:
        >>> speech2understand = Speech2Understand("exp/slu_train/onnx/int8")
        >>> speech2understand(speech)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "slu"
    options_class = DecodeOptions

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        manifest = self.bundle.manifest
        self._reading = manifest.transcript
        if self._reading is not None:
            path = self.bundle.file(self._reading.tokenizer)
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise PluginError(
                    "a model that reads transcripts needs the package tokenizers: pip "
                    "install tokenizers"
                )
            self._tokenizer = Tokenizer.from_file(str(path))
            self._words = read_tokens(self.bundle.file(self._reading.token_list))

    def prepare(
        self,
        speech: np.ndarray,
        transcript: Optional[Union[str, np.ndarray]] = None,
    ) -> Utterance:
        """What the graphs take of an utterance.

        Args:
            speech: see :meth:`Speech2Text.prepare`.
            transcript: what was said, as text or as the word ids that ESPnet's
                preprocessor makes of it; none is an empty one. Models without
                postdecoder do not read it.
        """
        prepared = super().prepare(speech)
        if self._reading is None:
            return prepared
        return Accompanied(prepared, {"transcript": self._read(transcript)})

    def _read(self, transcript: Optional[Union[str, np.ndarray]]) -> np.ndarray:
        """Ids of the text encoder."""
        if transcript is None:
            words = []
        elif isinstance(transcript, str):
            known = set(self._words)
            words = [w if w in known else UNKNOWN for w in transcript.split()]
        else:
            words = [self._words[i] for i in transcript]
        encoding = self._tokenizer.encode(" ".join(words), add_special_tokens=False)
        ids = encoding.ids[: self._reading.max_tokens - 2]
        return np.array([self._reading.first, *ids, self._reading.last])

    def __call__(
        self,
        speech: np.ndarray,
        transcript: Optional[Union[str, np.ndarray]] = None,
    ) -> Results:
        """Understand one utterance; see :meth:`prepare`."""
        return self.batch([self.prepare(speech, transcript)])[0]
