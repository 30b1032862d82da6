"""Transcripts that models of spoken language understanding read beside the speech."""

from __future__ import annotations

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Transcript
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.text.converter import UNKNOWN, read_tokens

#: A transcript as text, or as the word ids that ESPnet's preprocessor makes of it.
Words = str | np.ndarray


class TranscriptReader:
    """From a transcript to the ids that the model's text encoder reads.

    Args:
        bundle: where the tokenizer lies.
        transcript: the manifest's description.

    Raises:
        PluginError: if the package tokenizers or the tokenizer is missing.
    """

    def __init__(self, bundle: Bundle, transcript: Transcript):
        self._described = transcript
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise PluginError(
                "a model that reads transcripts needs the package tokenizers: pip "
                "install tokenizers"
            )
        if transcript.tokenizer is None:
            raise PluginError(f"{bundle.path} has no tokenizer; export it again")
        path = bundle.file(transcript.tokenizer)
        self._tokenizer = Tokenizer.from_file(str(path))
        self._words = read_tokens(bundle.file(transcript.token_list))

    def ids(self, transcript: Words | None) -> np.ndarray:
        """(tokens,) ids of a transcript; None is an empty one."""
        if transcript is None:
            words = []
        elif isinstance(transcript, str):
            known = set(self._words)
            words = [w if w in known else UNKNOWN for w in transcript.split()]
        else:
            words = [self._words[i] for i in transcript]
        encoding = self._tokenizer.encode(" ".join(words), add_special_tokens=False)
        described = self._described
        ids = encoding.ids[: described.max_tokens - 2]
        return np.array([described.first, *ids, described.last])
