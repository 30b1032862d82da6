"""Packed models, unpacked so that nothing of them lands elsewhere."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from espnet_onnx_plugin.bundle.yaml_file import load_yaml, read_yaml
from espnet_onnx_plugin.errors import PluginError

#: What says which member is which file of the model.
META = "meta.yaml"

#: Bytes of that, and of a member that is YAML: ESPnet's are a few hundred KiB at most.
LARGEST_YAML = 32 * 2**20

_CHUNK = 2**20


@dataclass(frozen=True)
class _Member:
    """A file in an archive.

    Attributes:
        size: in bytes, as the archive says.
        open: gives its content.
    """

    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: str | Path, directory: str | Path) -> dict[str, str]:
    """Unpack a model, as ``espnet2.main_funcs.pack_funcs.unpack``.

    Unlike that it refuses what is no file of its own: links, devices, names that lead
    out of ``directory`` or are there twice, files that are larger than the archive
    says, and archives that are larger than the disk.

    Args:
        archive: zip or tar, compressed or not.
        directory: where its files go.

    Returns:
        Files of the model by ESPnet's names (``asr_train_config``, ...). In those that
        are YAML the names of members have become paths.

    Raises:
        PluginError: if it is not such an archive, or is refused.
    """
    archive, directory = Path(archive), Path(directory)
    try:
        with _opened(archive) as members:
            return _unpack(members, directory)
    except PluginError as e:
        raise PluginError(f"{archive}: {e}; get it from its author again")
    except OSError as e:
        raise PluginError(f"cannot unpack {archive}: {e.strerror or e}")
    except Exception as e:  # of zipfile, tarfile, zlib and codecs, for what they met
        reason = " ".join(str(e).split()) or type(e).__name__
        raise PluginError(
            f"{archive} is not a model packed by ESPnet, or is damaged: {reason}"
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[dict[str, _Member]]:
    """The members of an archive by name, for the time of a block."""
    with contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(path):
            members = _of_zip(stack.enter_context(zipfile.ZipFile(path)))
        else:
            members = _of_tar(stack.enter_context(tarfile.open(path)))
        found: dict[str, _Member] = {}
        for name, member in members:
            name = _plain(name)
            if name in found:
                raise PluginError(f"it holds {name!r} twice")
            found[name] = member
        yield found


def _of_zip(file: zipfile.ZipFile) -> Iterator[tuple[str, _Member]]:
    for info in file.infolist():
        kind = info.external_attr >> 28  # of Unix's file types, 0: not said
        if info.is_dir():
            continue
        if kind not in (0, 0o10):
            raise PluginError(f"{info.filename!r} is a link or a device, no file")
        content = functools.partial(file.open, info)
        yield info.filename, _Member(info.file_size, content)


def _of_tar(file: tarfile.TarFile) -> Iterator[tuple[str, _Member]]:
    for info in file:
        if info.isdir():
            continue
        if not info.isreg():
            raise PluginError(f"{info.name!r} is a link or a device, no file")
        yield info.name, _Member(info.size, functools.partial(file.extractfile, info))


def _plain(name: str) -> str:
    """A member's name as one below the directory.

    Raises:
        PluginError: if it leads out of it.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(path.parts) > 0 and path.parts[0].endswith(":")
    if path.is_absolute() or drive or ".." in path.parts or not path.parts:
        raise PluginError(f"{name!r} leads out of the directory it is unpacked into")
    if any(ord(character) < 32 for character in name):
        raise PluginError(f"{name!r} is no name of a file")
    return path.as_posix()


def _unpack(members: Mapping[str, _Member], directory: Path) -> dict[str, str]:
    [meta, *_] = [n for n in members if PurePosixPath(n).name == META] or [None]
    if meta is None:
        raise PluginError(f"it has no {META}")
    content = _yaml(meta, members[meta])
    files = _listed(content)
    for member in files.values():
        if member not in members:
            raise PluginError(f"its {META} names {member!r}, which it does not hold")
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(member.size for member in members.values())
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise PluginError(
            f"it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free in "
            f"{directory}"
        )
    texts = {files[str(name)] for name in content["yaml_files"]}
    places = {name: str(directory / name) for name in members}
    for name, member in members.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in texts:
            settings = _placed(_yaml(name, member), places)
            path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        else:
            _copy(name, member, path)
    return {name: places[member] for name, member in files.items()}


def _listed(content: Any, packed: bool = True) -> dict[str, str]:
    """Names of members in a ``meta.yaml``, by ESPnet's names of them.

    Args:
        content: of the ``meta.yaml``.
        packed: whether ESPnet has packed it, which has /a/b of a file outside the
            working directory as a/b.
    """
    files = {}
    for kind in ("yaml_files", "files"):
        table = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(table, dict):
            raise PluginError(f"its {META} lists no {kind}")
        for name, member in table.items():
            path = str(member)
            files[str(name)] = _plain(path.lstrip("/") if packed else path)
    return files


def refuse_listed(directory: str | Path) -> None:
    """Look at what the ``meta.yaml`` of an unpacked model names.

    Raises:
        PluginError: if that leads out of the directory.
    """
    meta = Path(directory) / META
    if not meta.is_file():
        return  # which espnet_model_zoo tells
    try:
        _listed(read_yaml(meta), packed=False)
    except PluginError as e:
        raise PluginError(f"{directory}: {e}; get it from its author again")


def _copy(name: str, member: _Member, path: Path) -> None:
    left = member.size
    with member.open() as source, path.open("wb") as target:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise PluginError(f"{name!r} is larger than it says")
            target.write(chunk)
    if left:
        raise PluginError(f"{name!r} is shorter than it says")


def _yaml(name: str, member: _Member) -> Any:
    """Content of a YAML, of which no object but data is made."""
    if member.size > LARGEST_YAML:
        raise PluginError(f"{name!r} is {member.size / 2**20:.0f} MiB, no settings")
    with member.open() as file:
        text = file.read(LARGEST_YAML + 1)
    if len(text) > LARGEST_YAML:
        raise PluginError(f"{name!r} is larger than it says")
    return load_yaml(text, repr(name))


def _placed(value: Any, places: Mapping[str, str]) -> Any:
    """Settings in which names of members have become paths."""
    if isinstance(value, dict):
        return {key: _placed(item, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_placed(item, places) for item in value]
    if isinstance(value, str) and value:
        return places.get(str(PurePosixPath(value)).lstrip("/"), value)
    return value
