"""Tokenizers of Whisper and of Hugging Face's hub, without torch and transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError

#: Texts that lose their spaces, in this order: ``clean_up_tokenization`` of
#: transformers.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class HubTokenizer:
    """A tokenizer in the file format of the package tokenizers.

    Args:
        path: the file.
        clean_up: whether text loses the spaces before punctuation.

    Raises:
        PluginError: if the package is missing or cannot read the file.
    """

    def __init__(self, path: Path, clean_up: bool = False):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise PluginError(
                f"{path.name} needs the package tokenizers: pip install tokenizers"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as e:  # a bare Exception is what it raises
            raise PluginError(f"{path} is damaged ({e}); export the bundle again")
        self._clean_up = clean_up
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}

    def ids2tokens(self, ids: Iterable[int]) -> list[str]:
        """Names of token ids, as ESPnet's ``HuggingFaceTokenIDConverter``."""
        return [self._tokenizer.id_to_token(i) for i in ids]

    def tokens2ids(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens.

        Raises:
            PluginError: naming a token that there is not.
        """
        ids = {token: self._tokenizer.token_to_id(token) for token in tokens}
        unknown = [token for token, i in ids.items() if i is None]
        if unknown:
            raise PluginError(f"'{unknown[0]}' is no token of the model")
        return [ids[token] for token in tokens]

    def tokens2text(self, tokens: list[str]) -> str:
        """Text of tokens, as ESPnet's ``HuggingFaceTokenizer``."""
        text = self._tokenizer.decode(self.tokens2ids(tokens), skip_special_tokens=True)
        if self._clean_up:
            for spaced in _CLEAN_UP:
                text = text.replace(spaced, spaced.strip())
        return text.replace("\n", " ").strip()

    def text2tokens(self, text: str) -> list[str]:
        """Tokens of a text, without special ones around it."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens


class WhisperTokenizer(HubTokenizer):
    """ESPnet's ``OpenAIWhisperTokenizer`` and ``OpenAIWhisperTokenIDConverter``."""

    def ids2tokens(self, ids: Iterable[int]) -> list[str]:
        """Names of token ids less the special ones."""
        return super().ids2tokens(i for i in ids if i not in self._special)

    def tokens2text(self, tokens: list[str]) -> str:
        """Text of tokens."""
        return self._tokenizer.decoder.decode(tokens)
