"""Token lists and tokenizers of models, written into a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.bundle import Text, describe_file
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.hub_text import WHISPER_TYPES

_TOKEN_TYPES = ("char", "bpe", "word", "phn", "hugging_face", *WHISPER_TYPES, None)


def refuse_token_type(key: str, config: Mapping[str, Any]) -> None:
    """Raise a :class:`PluginError` where a tokenizer is not supported."""
    if config.get(key) not in _TOKEN_TYPES:
        raise PluginError(f"{key} '{config[key]}' is not supported yet")


def write_text(
    tokens: Sequence[str],
    token_type: str | None,
    bpemodel: str | None,
    work: Path,
    prefix: str = "",
) -> Text:
    """Write a token list and its tokenizer's model, and describe them.

    Args:
        tokens: the vocabulary.
        token_type: ESPnet's name of the tokenizer.
        bpemodel: file of a sentencepiece model.
        work: the directory.
        prefix: of the files' names.
    """
    token_list = work / f"{prefix}tokens.txt"
    token_list.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    copy = None
    if token_type == "bpe" and bpemodel is not None:
        if not Path(bpemodel).is_file():
            raise PluginError(
                f"the training configuration names bpemodel {bpemodel}, which does not "
                "exist; run this in the recipe's directory"
            )
        path = work / f"{prefix}bpe.model"
        shutil.copyfile(bpemodel, path)
        copy = describe_file(path)
    return Text(token_type, describe_file(token_list), copy)
