"""Texts that a model reads or writes, as a bundle describes them."""

from __future__ import annotations

from dataclasses import dataclass

from espnet_onnx_plugin.bundle.graph import File


@dataclass(frozen=True)
class Text:
    """Tokens and how they become text, or text them.

    Attributes:
        token_type: char, bpe, word, phn, whisper_en, whisper_multilingual, hugging_face
            or None, as in ESPnet.
        token_list: the tokens, one a line.
        bpemodel: the sentencepiece model, or None.
        tokenizer: the tokenizer of Whisper or of a hub, or None.
        clean_up: whether its texts lose the spaces before punctuation.
        cleaner: ESPnet's names of what is applied to a text before it becomes tokens,
            in this order.
        g2p: ESPnet's name of what makes phonemes of a text; None: spaces part them.
            Of token type phn alone.
        non_linguistic_symbols: those that are one token, of token type char alone.
    """

    token_type: str | None
    token_list: File
    bpemodel: File | None = None
    tokenizer: File | None = None
    clean_up: bool = False
    cleaner: tuple[str, ...] = ()
    g2p: str | None = None
    non_linguistic_symbols: tuple[str, ...] = ()

    @property
    def files(self) -> list[File]:
        """Its files in the bundle."""
        files = (self.token_list, self.bpemodel, self.tokenizer)
        return [file for file in files if file is not None]


@dataclass(frozen=True, kw_only=True)
class Transcript(Text):
    """A transcript that a model reads beside the speech: words, and ids of their parts.

    Attributes:
        first, last: ids that stand around it.
        max_tokens: how many ids it may have with those.
    """

    first: int
    last: int
    max_tokens: int
