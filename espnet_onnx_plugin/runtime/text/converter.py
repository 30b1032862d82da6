"""From token ids to text and back, as ESPnet's tokenizers do it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.lists import read_lines
from espnet_onnx_plugin.runtime.text.cleaner import Cleaner, make_cleaner
from espnet_onnx_plugin.runtime.text.hub_text import HubTokenizer, WhisperTokenizer
from espnet_onnx_plugin.runtime.text.phonemes import SPACE, G2p, make_g2p

UNKNOWN = "<unk>"


def without_special(tokens: Sequence[str]) -> list[str]:
    """Tokens less those in angle brackets: task, timestamps, ..."""
    return [t for t in tokens if not (t[0] == "<" and t[-1] == ">")]


def read_tokens(path: Path) -> list[str]:
    """The tokens of a token list's file."""
    return read_lines(path)


class TokenConverter:
    """Token ids to tokens to text, and text to token ids.

    Args:
        bundle: whose manifest names the token list and the tokenizer.

    Attributes:
        token_list: the vocabulary.
        hub: the tokenizer of Whisper or of a hub, or None.
    """

    def __init__(self, bundle: Bundle):
        self._text = text = bundle.manifest.tokens
        self.token_list = read_tokens(bundle.file(text.token_list))
        self._ids = {token: i for i, token in enumerate(self.token_list)}
        self._type = text.token_type
        self._sentencepiece = None
        self.hub: HubTokenizer | None = None
        if text.tokenizer is not None:
            hub = self._type == "hugging_face"
            cls = HubTokenizer if hub else WhisperTokenizer
            self.hub = cls(bundle.file(text.tokenizer), text.clean_up)
        if self._type == "bpe" and text.bpemodel is not None:
            import sentencepiece

            self._sentencepiece = sentencepiece.SentencePieceProcessor()
            try:
                self._sentencepiece.Load(str(bundle.file(text.bpemodel)))
            except (OSError, RuntimeError):
                raise PluginError(
                    f"sentencepiece cannot read {bundle.file(text.bpemodel)}; export "
                    "the bundle again"
                )
        elif self._type == "bpe":
            self._type = None  # as ESPnet: tokens, but no text

    def ids2tokens(self, ids: Iterable[int]) -> list[str]:
        """Names of token ids."""
        if self.hub is not None:
            return self.hub.ids2tokens(ids)
        return [self.token_list[i] for i in ids]

    def token2id(self, token: str) -> int:
        """Id of a token.

        Raises:
            PluginError: if there is no such token.
        """
        if token not in self._ids:
            raise PluginError(f"'{token}' is not in the model's token list")
        return self._ids[token]

    @functools.cached_property
    def clean(self) -> Cleaner:
        """Cleaner of a text before it becomes tokens."""
        return make_cleaner(self._text.cleaner)

    @functools.cached_property
    def _g2p(self) -> G2p:
        return make_g2p(self._text.g2p)

    @functools.cached_property
    def _characters(self) -> re.Pattern[str]:
        """Symbols that are one token, "ab" before "a", and characters."""
        symbols = sorted(self._text.non_linguistic_symbols, reverse=True)
        return re.compile("|".join([*map(re.escape, symbols), "."]), re.DOTALL)

    def text2ids(self, text: str) -> list[int]:
        """Token ids of a text; what is not in the token list becomes ``<unk>``.

        As ESPnet's ``CommonPreprocessor``: a cleaner, a tokenizer and the token list.

        Raises:
            PluginError: if the model has no tokenizer for it, or a package or data that
                its cleaner or its phonemes need are missing.
        """
        text = self.clean(text)
        if self.hub is not None:
            return self.hub.tokens2ids(self.hub.text2tokens(text))
        if self._sentencepiece is not None:
            tokens = self._sentencepiece.EncodeAsPieces(text)
        elif self._type == "word":
            tokens = text.split()
        elif self._type == "char":
            tokens = self._characters.findall(text)
            tokens = [SPACE if token == " " else token for token in tokens]
        elif self._type == "phn":
            tokens = self._g2p(text)
        else:
            raise PluginError(
                f"the model's token_type '{self._type}' cannot turn text into tokens; "
                "give token ids"
            )
        return self.tokens2ids(tokens)

    def tokens2ids(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens of the token list; others become ``<unk>``."""
        return [self._ids.get(token, self._ids[UNKNOWN]) for token in tokens]

    def tokens2text(self, tokens: list[str]) -> str | None:
        """Text of tokens, or None where the model has no tokenizer."""
        if self.hub is not None:
            return self.hub.tokens2text(tokens)
        if self._type is None:
            return None
        if self._sentencepiece is not None:
            return self._sentencepiece.DecodePieces(tokens)
        if self._type == "word":
            return " ".join(tokens)
        if self._type == "char":
            tokens = [" " if token == SPACE else token for token in tokens]
        return "".join(tokens)
