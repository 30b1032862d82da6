"""Content of everything that an export reads: equal fingerprints, equal bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import sha256
from espnet_onnx_plugin.bundle.yaml_file import read_yaml
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.graph import OPSET

#: Settings of a training configuration that name a file of what a model is, besides
#: those of its parts, ``*_conf``.
_NAMING = """token_list src_token_list transcript_token_list bpemodel src_bpemodel
non_linguistic_symbols""".split()

#: Those of training alone, whose files may be as large as the corpus.
_OF_TRAINING = """preprocessor_conf dataset_conf collate_fn_conf optim_conf optim2_conf
scheduler_conf scheduler2_conf""".split()

#: One of these makes a directory a model or a tokenizer of transformers.
_OF_HUB = ("config.json", "tokenizer_config.json")

#: What parallel_wavegan reads beside a checkpoint.
_STATISTICS = ("stats.h5", "stats.npy")


def fingerprint(task: str, checkpoints: Checkpoints) -> dict[str, Any]:
    """Sources of a bundle: equal fingerprints give equal bundles.

    Configurations count as what they say, with the content of a file in the place of
    its name: a tokenizer that has changed is another one, a directory that has moved is
    not.
    """
    import espnet2

    files = {
        name: _digest_config(path) if name.endswith("_config") else sha256(path)
        for name, path in checkpoints.files().items()
    }
    if checkpoints.vocoder_file is not None:
        for name in _STATISTICS:
            if (beside := checkpoints.vocoder_file.with_name(name)).is_file():
                files[f"vocoder_{name}"] = sha256(beside)
    return {
        "task": task,
        "files": files,
        "espnet": getattr(espnet2, "__version__", "unknown"),
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "opset": OPSET,
        "espnet_onnx_plugin": espnet_onnx_plugin.__version__,
    }


def _digest_config(path: Path) -> str:
    """Digest of a configuration; of the file itself where that is none."""
    try:
        settings = read_yaml(path)
    except PluginError:  # which the export says, where it reads the file
        return sha256(path)
    if not isinstance(settings, dict):
        return sha256(path)
    content = {
        key: _with_content(value) if _names_files(key, value, settings) else value
        for key, value in settings.items()
    }
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _names_files(key: Any, value: Any, settings: Mapping[Any, Any]) -> bool:
    """Whether the export reads files that a setting names."""
    if key == "init_param":
        # Of a checkpoint that lacks what was frozen; else training alone reads them.
        return bool(settings.get("freeze_param") or settings.get("use_adapter"))
    if key in _NAMING:
        return isinstance(value, str)  # a list is one of tokens
    return str(key).endswith("_conf") and key not in _OF_TRAINING


def _with_content(value: Any) -> Any:
    """Settings with digests of the files that they name."""
    if isinstance(value, Mapping):
        return {key: _with_content(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_content(inner) for inner in value]
    if isinstance(value, str):
        name, _, parts = value.partition(":")  # of init_param
        digests = _digests(Path(value)) or _digests(Path(name))
        return (digests, parts) if digests else value
    return value


def _digests(path: Path) -> list[tuple[str, str]]:
    """Digests of a file, or of a model in a directory; none where there is neither."""
    try:
        if path.is_file():
            return [("", sha256(path))]
        if path.name and any((path / name).is_file() for name in _OF_HUB):
            files = sorted(file for file in path.iterdir() if file.is_file())
            return [(file.name, sha256(file)) for file in files]
    except (OSError, ValueError):  # a name that no file can have, or one not to be read
        pass
    return []
