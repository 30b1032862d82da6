"""From token ids to text, as ESPnet's tokenizers do it."""

from pathlib import Path
from typing import Iterable, List, Optional

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.hub_text import HubTokenizer, WhisperTokenizer

SPACE = "<space>"


def read_tokens(path: Path) -> List[str]:
    """The tokens of a token list's file."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


class TokenConverter:
    """Token ids to tokens to text.

    Args:
        bundle: whose manifest names the token list and the tokenizer.

    Attributes:
        token_list: the vocabulary.
        hub: the tokenizer of Whisper or of a hub, or None.
    """

    def __init__(self, bundle: Bundle):
        text = bundle.manifest.text
        self.token_list = read_tokens(bundle.file(text.token_list))
        self._type = text.token_type
        self._sentencepiece = None
        self.hub: Optional[HubTokenizer] = None
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

    def ids2tokens(self, ids: Iterable[int]) -> List[str]:
        """Names of token ids."""
        if self.hub is not None:
            return self.hub.ids2tokens(ids)
        return [self.token_list[i] for i in ids]

    def tokens2text(self, tokens: List[str]) -> "str | None":
        """Text of tokens, or None where the model has no tokenizer."""
        if self.hub is not None:
            return self.hub.tokens2text(tokens)
        if self._type is None:
            return None
        if self._type == "bpe":
            return self._sentencepiece.DecodePieces(tokens)
        if self._type == "word":
            return " ".join(tokens)
        if self._type == "char":
            tokens = [" " if token == SPACE else token for token in tokens]
        return "".join(tokens)
