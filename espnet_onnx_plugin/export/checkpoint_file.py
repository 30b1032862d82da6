"""Files of ``torch.save``, read without running code that they may hold."""

from __future__ import annotations

import argparse
import collections
import contextlib
import contextvars
import datetime
import logging
import os
import pathlib
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml

from espnet_onnx_plugin.bundle.yaml_file import read_yaml
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.replace import replaced

logger = logging.getLogger(__name__)

#: Names that are told of many.
_NAMED = 5

#: Entries that hold the weights: of the trainer's ``checkpoint.pth``, of DeepSpeed, of
#: Lightning.
_ENTRIES = ("model", "module", "state_dict")

#: Of numpy, what its numbers and arrays name in a pickle of theirs.
_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY = np.zeros(0).__reduce__()[0]
_KINDS = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()

#: What trainers keep in a checkpoint besides weights. None of it runs code.
_HARMLESS: list[Any] = [
    datetime.timedelta,
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    np.ndarray,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *{type(np.dtype(kind)) for kind in _KINDS},
]

#: Why torch reads a file not with weights only, and what it names as held there.
_HELD = (
    re.compile(r"GLOBAL ([\w.]+\w)"),
    re.compile(r"Can only (?:build|create) .* but got <class '([\w.]+)'>"),
    re.compile(r"weights_only=True`* with (TorchScript) archives"),
    re.compile(r"weights_only=True.* in the (legacy \.tar) format"),
)

_trusted: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "trusted", default=False
)

Weights = dict[str, torch.Tensor]


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Load checkpoints with whatever they hold, for the time of the block.

    Args:
        trust: whether the user knows their author, see ``--trust_checkpoint``.
    """
    token = _trusted.set(trust)
    try:
        yield
    finally:
        _trusted.reset(token)


@contextlib.contextmanager
def weights_only() -> Iterator[None]:
    """Hold what others load to the same: ESPnet, s3prl, parallel_wavegan.

    ESPnet 202511 asks torch for whatever a file holds, 202611 asks whom it finds at the
    terminal, and parallel_wavegan, with ESPnet 202511 also ESPnet, makes whatever
    objects a YAML names. In the block every ``torch.load`` is :func:`load_file`, and
    ``yaml.Loader`` the safe one.

    It can go when ESPnet 202511 is no longer supported and parallel_wavegan reads its
    settings with ``yaml.SafeLoader``.
    """
    with replaced(torch, "load", load_file), replaced(yaml, "Loader", yaml.SafeLoader):
        yield


def load_file(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    **options: Any,
) -> Any:
    """As ``torch.load``, but for ``weights_only``: that is the user's to say.

    Raises:
        PluginError: if the file holds more than weights and the user does not trust it.
    """
    start = f.tell() if hasattr(f, "tell") else 0
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return _torch_load(f, map_location, weights_only=True, **options)
    except (pickle.UnpicklingError, RuntimeError) as e:
        held = _held(str(e), f)
        if held is None:
            raise
    name = f if isinstance(f, (str, os.PathLike)) else getattr(f, "name", "a file")
    if not _trusted.get():
        raise PluginError(
            f"{name} holds more than weights ({held}), and loading that may run code; "
            "if you know its author, give --trust_checkpoint true"
        )
    logger.warning("loading %s with whatever code it holds (%s)", name, held)
    if hasattr(f, "seek"):
        f.seek(start)
    return _torch_load(f, map_location, weights_only=False, **options)


_torch_load = torch.load


def _held(message: str, file: Any) -> str | None:
    """Name of what a file holds besides weights; None: it is damaged.

    Args:
        message: of torch, on why it does not read the file with weights only.
        file: the file.
    """
    for pattern in _HELD:
        found = pattern.search(message)
        if found is not None:
            return found[1]
    # Torch does not know all operations of pickles, and then names none of its objects.
    if "Unsupported operand" in message and isinstance(file, (str, os.PathLike)):
        return next(iter(_named_in(Path(file))), None)
    return None


def _named_in(path: Path) -> Iterator[str]:
    """Classes and functions that the pickles of a file name, but torch's own."""
    with contextlib.suppress(Exception):  # whatever a damaged file leads to
        for content in _pickles(path):
            texts: list[str] = []
            for operation, argument, _ in pickletools.genops(content):
                name = None
                if operation.name in ("GLOBAL", "INST"):
                    name = str(argument).replace(" ", ".")
                elif operation.name == "STACK_GLOBAL":
                    name = ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
                if name and not name.startswith(("torch.", "collections.")):
                    yield name


def _pickles(path: Path) -> Iterator[bytes | IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    yield archive.read(name)
        return
    with path.open("rb") as file:  # one after another, as torch wrote them once
        while file.peek(1):
            yield file


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
        return load_file(path, map_location="cpu")
    except PluginError:
        raise
    except Exception as e:  # of pickle, zipfile and torch, for whatever they met
        if _trusted.get():
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            raise PluginError(f"{path} cannot be loaded: {reason}")
        raise PluginError(
            f"{path} is no checkpoint of torch, or is cut short or damaged; copy it "
            "again, or take another epoch's"
        )


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
    read_yaml(config)
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
