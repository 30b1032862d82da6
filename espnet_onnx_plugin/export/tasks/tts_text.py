"""How the text of a TTS model becomes tokens."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.bundle import Text
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.tasks.texts import refuse_token_type, write_text
from espnet_onnx_plugin.runtime.io.lists import read_lines
from espnet_onnx_plugin.runtime.text.cleaner import CLEANERS
from espnet_onnx_plugin.runtime.text.phonemes import G2PS


def refuse_text(config: Mapping[str, Any]) -> None:
    """Name what of a training configuration's text front end is not supported.

    Raises:
        PluginError: naming it.
    """
    refuse_token_type("token_type", config)
    for key, names, known in (
        ("cleaner", _cleaners(config.get("cleaner")), CLEANERS),
        ("g2p", [config.get("g2p")], G2PS),
    ):
        for name in names:
            if name not in known:
                raise PluginError(
                    f"{key} '{name}' is not supported (supported: "
                    f"{', '.join(filter(None, known))})"
                )


def write_tts_text(args: argparse.Namespace, work: Path) -> Text:
    """Write tokens and tokenizer of a TTS model into a directory, and describe them.

    Args:
        args: training arguments, of which it reads what ESPnet's
            ``TTSTask.build_preprocess_fn`` does.
        work: the directory.

    Raises:
        PluginError: if a file that they name does not exist.
    """
    token_type = args.token_type if args.use_preprocessor else None
    text = write_text(list(args.token_list), token_type, args.bpemodel, work)
    text = dataclasses.replace(text, cleaner=_cleaners(args.cleaner))
    if token_type == "phn":
        text = dataclasses.replace(text, g2p=args.g2p)
    if token_type == "char" and args.non_linguistic_symbols is not None:
        symbols = _read_symbols(Path(args.non_linguistic_symbols))
        text = dataclasses.replace(text, non_linguistic_symbols=symbols)
    return text


def _cleaners(choice: Any) -> tuple[str, ...]:
    """Names of cleaners, as ESPnet's ``TextCleaner`` takes None, one or several."""
    if choice is None:
        return ()
    return (choice,) if isinstance(choice, str) else tuple(choice)


def _read_symbols(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise PluginError(
            f"the training configuration names non_linguistic_symbols {path}, which "
            "does not exist; run this in the recipe's directory"
        )
    return tuple(sorted({line.rstrip() for line in read_lines(path)} - {""}))
