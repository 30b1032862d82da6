"""Tokenizers of Whisper and of Hugging Face's hub, as files of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.errors import PluginError

#: What ESPnet calls Whisper's tokenizers, as token type and as bpemodel.
WHISPER_TYPES = ("whisper_en", "whisper_multilingual")


def whisper_converter(
    model_type: str, language: str | None, task: str | None, sot: bool = False
) -> Any:
    """ESPnet's ``OpenAIWhisperTokenIDConverter``, made as its inference makes it.

    Args:
        model_type: one of :data:`WHISPER_TYPES`.
        language: ESPnet's code of it; None: en.
        task: transcribe or translate; None: transcribe.
        sot: whether the tokens have one for the change of the speaker.

    Raises:
        PluginError: if ESPnet cannot make it of what is installed.
    """
    needs_whisper()
    from espnet2.text.whisper_token_id_converter import OpenAIWhisperTokenIDConverter

    return OpenAIWhisperTokenIDConverter(
        model_type=model_type,
        language=language or "en",
        task=task or "transcribe",
        sot=sot,
    )


def whisper_primer(converter: Any) -> list[int]:
    """The tokens that ESPnet's search begins with."""
    return [int(i) for i in converter.tokenizer.sot_sequence_including_notimestamps]


def write_whisper_tokenizer(converter: Any, path: Path) -> None:
    """Write the tokenizer of :func:`whisper_converter`."""
    tokenizer = converter.tokenizer.tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    # ESPnet leaves out of its tokens what transformers counts as special here.
    special = set(tokenizer.all_special_ids)
    for token in content["added_tokens"]:
        token["special"] = token["id"] in special
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_hub_tokenizer(name: str | None, path: Path) -> bool:
    """Write the tokenizer that a training configuration names as ``bpemodel``.

    Returns:
        Whether its texts lose the spaces before punctuation.

    Raises:
        PluginError: if it cannot be loaded, or has no fast form.
    """
    needs_transformers("token_type 'hugging_face'")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as e:  # network and hub errors of several packages
        reason = " ".join(str(e).split())[:300]
        raise PluginError(f"transformers cannot load the tokenizer '{name}': {reason}")
    if not tokenizer.is_fast:
        raise PluginError(
            f"the tokenizer '{name}' has no fast form, which bundles need; it is "
            f"{type(tokenizer).__name__}"
        )
    path.write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    return bool(tokenizer.clean_up_tokenization_spaces)


def needs_whisper() -> None:
    """Import whisper, in the form that ESPnet can use.

    Raises:
        PluginError: if it is not installed, or is OpenAI's since 20230314: ESPnet needs
            the tokenizers of transformers that it had before.
    """
    try:
        from whisper.tokenizer import build_tokenizer  # noqa: F401
    except ImportError as e:
        raise PluginError(
            f"Whisper needs ESPnet's copy of the package openai-whisper ({e}): pip "
            "install git+https://github.com/espnet/whisper.git"
        )


def needs_transformers(what: str = "a model of Hugging Face's hub") -> None:
    """Import transformers.

    Raises:
        PluginError: if it is not installed.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as e:
        raise PluginError(
            f"{what} needs the package transformers ({e}): pip install transformers"
        )
