"""YAML of others, read as data of a bounded size.

PyYAML's safe loader makes no objects, but a few lines of anchors may stand for any
number of values, a deep one ends Python's stack, and of a key that is given twice it
takes the last without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from espnet_onnx_plugin.errors import PluginError

#: Values that a file may hold: a list of tokens has as many as 250,000.
MOST_VALUES = 1_000_000

#: Bytes of a file: ESPnet's configurations are of a few hundred KiB.
LARGEST = 32 * 2**20

#: Lists and mappings in each other: bundles and configurations have up to 8.
DEEPEST = 32

#: The safe loader, of libyaml where PyYAML has it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, *, plain: bool = False, largest: int = LARGEST) -> Any:
    """Content of a file; see :func:`load_yaml`.

    Args:
        path: the file.
        plain: see there.
        largest: bytes that it may have.

    Raises:
        PluginError: if it cannot be read, or is refused.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as e:
        raise PluginError(f"cannot read {path}: {e.strerror}")
    if len(content) > largest:
        raise PluginError(f"{path} is larger than {largest / 2**20:.0f} MiB")
    return load_yaml(content, str(path), plain=plain)


def load_yaml(content: bytes | str, where: str, *, plain: bool = False) -> Any:
    """Content of a text in YAML.

    Args:
        content: the text.
        where: what it is, for messages.
        plain: whether it has to be as this package writes YAML, with neither anchors
            nor tags, and every key once.

    Raises:
        PluginError: if it is no YAML, holds more than data, or too much of it.
    """
    try:
        _refuse_outline(yaml.parse(content, Loader=_Loader), plain)
        return yaml.load(content, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise PluginError(f"{where} is no YAML of settings: {reason}")


@dataclass
class _Collection:
    """A list or a mapping of which the end has not come yet.

    Attributes:
        keys: of a mapping, those so far; None: it is a list.
        anchor: its name for later, or None.
        values: how many it holds so far, with itself and those in each other.
        at_key: whether a key comes next.
    """

    keys: set[str] | None
    anchor: str | None
    values: int = 1
    at_key: bool = True

    def add(self, values: int) -> None:
        """Count values of its own.

        Raises:
            ValueError: if they are too many.
        """
        self.values += values
        if self.values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")


def _refuse_outline(events: Iterable[Any], plain: bool) -> None:
    """Refuse a text by its outline, before any value is made of it.

    Raises:
        ValueError: naming what is wrong with it.
    """
    around: list[_Collection] = [_Collection(None, None)]
    anchored: dict[str, int] = {}
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            ended = around.pop()
            around[-1].add(ended.values)
            if ended.anchor is not None:
                anchored[ended.anchor] = ended.values
            continue
        if not isinstance(event, yaml.NodeEvent):  # of the stream and the document
            continue
        if plain:
            _refuse_unplain(event)
            _refuse_twice(event, around[-1])
        if isinstance(event, yaml.CollectionStartEvent):
            mapping = isinstance(event, yaml.MappingStartEvent)
            around.append(_Collection(set() if mapping else None, event.anchor))
            if len(around) > DEEPEST:
                raise ValueError(f"more than {DEEPEST} values lie in each other")
        elif isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in around):
                raise ValueError(f"'{event.anchor}' holds itself")
            around[-1].add(anchored.get(event.anchor, 1))
        else:
            around[-1].add(1)


def _refuse_unplain(event: Any) -> None:
    if event.anchor is not None:
        raise ValueError(f"it has the anchor '{event.anchor}'")
    if event.tag is not None:
        raise ValueError(f"it has the tag '{event.tag}'")


def _refuse_twice(event: Any, around: _Collection) -> None:
    """Refuse a key that is none or was there before."""
    if around.keys is not None and around.at_key:
        if not isinstance(event, yaml.ScalarEvent):
            raise ValueError("a key is no text")
        if event.value in around.keys:
            raise ValueError(f"key '{event.value}' is there twice")
        around.keys.add(event.value)
    around.at_key = not around.at_key
