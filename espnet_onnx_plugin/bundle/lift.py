"""Manifests of format 4 as those of the present one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT_VERSION = 4

#: Keys of synthesis that have another name now.
_RENAMED = {"taught_by": "teacher_forcing", "idle": "unused_draws"}

_KINDS = {"s2t": "prompted", "s2t_ctc": "prompted_ctc"}


def lift(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a manifest of the present format.

    Format 4 has one mapping for every kind of search, in which a kind is told by its
    keys, and names of files without their sizes and digests, which are taken here from
    the files themselves.

    Args:
        content: of a manifest of format 4.
        path: the bundle.
    """
    lifted = {key: value for key, value in content.items() if key != "format_version"}
    search = {_RENAMED.get(key, key): value for key, value in content["search"].items()}
    reading = search.pop("transcript", None)
    if "kind" not in search:  # a model that speaks has one
        usual = _KINDS.get(content["task"], "label_synchronous")
        search["kind"] = "mask_ctc" if "mask" in search else usual
    if "src" in search:
        search["recognition"] = {"kind": "label_synchronous", **search.pop("src")}
    lifted["search"] = search
    for name in ("text", "src_text", "transcript"):
        if lifted.get(name) is not None:
            lifted[name] = _text(lifted[name], path)
    if reading is not None:
        lifted["transcript"].update(reading)
    for name in ("ngram", "src_ngram"):
        if lifted.get(name) is not None:
            lifted[name] = _file(path, lifted[name])
    # Older ones have it among the figures of the quantization alone.
    figures = content.get("checks", {}).get("quantize", {})
    lifted.setdefault("precision", figures.get("precision", "fp32"))
    return lifted


def _text(text: Mapping[str, Any], path: Path) -> dict[str, Any]:
    names = ("token_list", "bpemodel", "tokenizer")
    files = {name: _file(path, text[name]) for name in names if text.get(name)}
    return {**text, **files}


def _file(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    # A name that leads elsewhere, or a file that is missing, is told afterwards.
    if file.parent != path or not file.is_file():
        return dict(name=name, size=0, sha256="")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return dict(name=name, size=file.stat().st_size, sha256=digest)
