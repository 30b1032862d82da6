"""Lists of utterances: Kaldi's files of lines ``KEY VALUE``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError


def read_lines(path: str | Path) -> list[str]:
    """Read a text file in UTF-8.

    Lines end at a newline and nowhere else, for a text may hold what Unicode calls a
    line separator; the last one may go without. A byte order mark is dropped.

    Raises:
        PluginError: if the file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise PluginError(f"cannot read {path}: {e}")
    return lines if lines[-1] else lines[:-1]


def read_scp(path: str | Path) -> dict[str, str]:
    """Read a file of lines ``KEY VALUE``, Kaldi's format of nearly everything.

    As in ESPnet the value begins behind the first blanks, spaces or tabs, and may be
    missing or hold blanks. Empty lines are left out.

    Raises:
        PluginError: if the file cannot be read or has two lines of one key.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        key, *value = line.split(maxsplit=1) or [""]
        if not key:
            continue
        if key in entries:
            raise PluginError(f"{path}:{number} names utterance '{key}' twice")
        entries[key] = value[0].rstrip() if value else ""
    return entries


def read_keys(path: str | Path) -> list[str]:
    """The first column of a key file.

    Raises:
        PluginError: if the file cannot be read or names no utterance.
    """
    return list(some(path, read_scp(path)))


def some(path: str | Path, entries: dict[str, str]) -> dict[str, str]:
    """The entries of a file.

    Raises:
        PluginError: if there is none.
    """
    if not entries:
        raise PluginError(f"{path} names no utterance: prepare the data again")
    return entries


def spread(keys: Sequence[str], limit: int | None) -> list[str]:
    """At most ``limit`` keys, spread over all."""
    wanted = len(keys) if limit is None else min(limit, len(keys))
    return [keys[i * len(keys) // wanted] for i in range(wanted)]


def of_utterance(key: str, tables: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """An utterance's entries in several tables, by the table's name.

    Raises:
        PluginError: if it is missing in one.
    """
    for name, table in tables.items():
        if key not in table:
            raise PluginError(f"utterance '{key}' has no {name}")
    return {name: table[key] for name, table in tables.items()}


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Name the utterance in errors.

    Raises:
        PluginError: as the block does.
    """
    try:
        yield
    except PluginError as e:
        raise PluginError(f"utterance '{key}': {e}")
