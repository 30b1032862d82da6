"""Files of ``torch.save``, read without running code that they may hold."""

from __future__ import annotations

import collections
import contextlib
import datetime
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from espnet_onnx_plugin.errors import PluginError

logger = logging.getLogger(__name__)

#: ESPnet's own variable, by which a user trusts a file.
UNSAFE = "ESPNET_ALLOW_UNSAFE_TORCH_LOAD"

#: Names that are told of many.
_NAMED = 5

#: Entries that hold the weights: of the trainer's ``checkpoint.pth``, of DeepSpeed, of
#: Lightning.
_ENTRIES = ("model", "module", "state_dict")

#: What ESPnet's trainer reports in a checkpoint besides weights; it runs no code.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    datetime.timedelta,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *{type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "f4", "f8")},
]

Weights = dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> Any:
    """Content of a file of ``torch.save``, without running code that it may hold.

    Raises:
        PluginError: if it is not such a file, is damaged, or would run code.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as e:
        raise PluginError(f"cannot read {path}: {e.strerror}")
    try:
        if zipfile.is_zipfile(path):  # torch compares no checksums
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(damaged)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # of pickle, zipfile and torch, for whatever they met
        unsafe = re.search(r"GLOBAL ([\w.]+\w)", str(e))
        if unsafe is None:
            raise PluginError(
                f"{path} is no checkpoint of torch, or is cut short or damaged; "
                "copy it again, or take another epoch's"
            )
    if not unsafe_allowed():
        raise PluginError(
            f"{path} holds more than weights ({unsafe[1]}), and loading that may run "
            f"code; if you trust its source, set {UNSAFE}=1"
        )
    logger.warning("loading %s with whatever code it holds (%s=1)", path, UNSAFE)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as e:  # whatever that code raises
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise PluginError(f"{path} cannot be loaded: {reason}")


def unsafe_allowed() -> bool:
    """Whether the user trusts the checkpoints, as ESPnet 202611 asks."""
    return os.environ.get(UNSAFE, "0") == "1"


@contextlib.contextmanager
def loading_as_allowed() -> Iterator[None]:
    """Let another package's ``torch.load`` run code if the user trusts checkpoints."""
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's own variable
    before = os.environ.get(name)
    if unsafe_allowed():
        os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def read_weights(path: Path) -> Weights:
    """Weights by name in a checkpoint of a trainer, of Lightning, or of weights alone.

    Raises:
        PluginError: if there are none.
    """
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise PluginError(
            f"{path} holds a {type(content).__name__}, not weights by name; give the "
            "checkpoint that training wrote"
        )
    for entry in _ENTRIES:
        if isinstance(content.get(entry), Mapping):
            logger.info("%s is a trainer's: taking its entry '%s'", path, entry)
            content = content[entry]
            # ESPnet's module for Lightning has the model among others.
            if entry == "state_dict" and any(k.startswith("model.") for k in content):
                content = weights_below("model.", content)
            break
    others = [k for k, v in content.items() if not isinstance(v, torch.Tensor)]
    if others:
        raise PluginError(
            f"{path} holds {first_few(others)}, which are no weights; give the "
            "checkpoint that training wrote"
        )
    if content and all(k.startswith("module.") for k in content):  # of DDP
        content = weights_below("module.", content)
    return content


def weights_below(prefix: str, weights: Weights) -> Weights:
    """Weights below a prefix, without the prefix, with what torch notes beside them."""
    found = collections.OrderedDict(
        (k[len(prefix) :], v) for k, v in weights.items() if k.startswith(prefix)
    )
    notes = getattr(weights, "_metadata", None)
    if notes is not None:
        found._metadata = {  # type: ignore[attr-defined]
            k[len(prefix) :]: v for k, v in notes.items() if k.startswith(prefix)
        }
    return found


def read_generator(path: Path, config: Path | None = None) -> None:
    """Look at a vocoder's files before parallel_wavegan loads them.

    Args:
        path: the checkpoint.
        config: its settings; None: those beside it.

    Raises:
        PluginError: if it holds no generator, or the settings are none: ESPnet 202511
            makes whatever objects their YAML names.
    """
    config = config or path.with_name("config.yml")
    try:
        yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as e:
        raise PluginError(f"cannot read {config}: {e.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise PluginError(f"{config} is no YAML of settings: {reason}")
    content = read_checkpoint(path)
    models = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(models, Mapping) or not isinstance(
        models.get("generator"), Mapping
    ):
        raise PluginError(
            f"{path} holds no generator; give a checkpoint that parallel_wavegan wrote"
        )


def first_few(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def counted(names: Sequence[str]) -> str:
    """How many, and the first few."""
    return f"{len(names)} ({first_few(names)})"
