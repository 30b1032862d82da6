"""Data classes that are read and written: from YAML, from Python, from a command line.

Values are taken strictly. A class is told from the others of a union by its ``kind``,
which stands first among its keys.
"""

from __future__ import annotations

import dataclasses
import numbers
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from espnet_onnx_plugin.errors import PluginError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

#: How a value is told to be of a type, by the type; numpy's numbers are numbers.
_ABSTRACT = {int: numbers.Integral, float: numbers.Real}


def option(
    default: Any,
    help: str,
    *,
    command: Any = None,
    read: Callable[[str], Any] | None = None,
) -> Any:
    """A field that a command line has as an option too.

    Args:
        default: its value, or ``dict`` for an empty one.
        help: the line of ``--help``.
        command: the command's default, where ESPnet has another one there.
        read: makes the value of the command line's text; default: by the field's type.
    """
    if command is None:
        command = {} if default is dict else default
    metadata = dict(help=help, command=command, read=read)
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_keys(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuse keys that are not known.

    Raises:
        PluginError: naming the first one, and those that are known.
    """
    for key in content:
        if key not in known:
            raise PluginError(
                f"{where}: unknown key '{key}'; known: {', '.join(known)}"
            )


def parse(cls: type[T], content: Any, where: str) -> T:
    """Build a data class of YAML's values.

    Args:
        cls: the class; its fields may be data classes, unions, mappings and tuples.
        content: values by field.
        where: what the content belongs to, for messages.

    Raises:
        PluginError: naming a key that is unknown, missing or holds another type.
    """
    if not isinstance(content, Mapping):
        raise PluginError(f"{where} does not hold options: {content!r}")
    content = dict(content)
    kind = getattr(cls, "kind", None)
    if kind is not None and content.pop("kind", kind) != kind:
        raise PluginError(f"{where} is not of kind {kind}")
    fields = [field for field in dataclasses.fields(cls) if field.init]
    check_keys(content, [field.name for field in fields], where)
    for field in fields:
        given = field.name in content
        if not given and field.default is field.default_factory:  # both are MISSING
            raise PluginError(f"{where}: {field.name} is missing")
    hints = get_type_hints(cls)
    values = {k: _value(hints[k], v, f"{where}: {k}") for k, v in content.items()}
    try:
        return cls(**values)
    except PluginError as e:
        raise PluginError(f"{where}: {e}")


def plain(value: Any) -> Any:
    """Data classes, tuples and paths to what YAML's safe dumper takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        tag = {} if kind is None else {"kind": kind}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {**tag, **plain(fields)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    """Convert one value to what a field is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _of_union(arguments, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise PluginError(f"{where} {value!r} is none of {', '.join(arguments)}")
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return parse(hint, value, where)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) == len(value):
            items = enumerate(zip(arguments, value))
            return tuple(_value(h, v, f"{where}: {i}") for i, (h, v) in items)
    if origin is Mapping and isinstance(value, dict):
        of_name, of_value = arguments
        for name in value:
            _value(of_name, name, f"{where}: key")
        return {k: _value(of_value, v, f"{where}: {k}") for k, v in value.items()}
    if hint is float and _is_of(value, hint) and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (bool, int, str) and _is_of(value, hint):
        return value
    named = _NAMES.get(hint, "a list" if origin is tuple else "as it should be")
    raise PluginError(f"{where} is not {named}: {value!r}")


def _of_union(alternatives: tuple[Any, ...], value: Any, where: str) -> Any:
    """Convert a value to the first alternative that it fits, or that its kind names."""
    if value is None and type(None) in alternatives:
        return None
    alternatives = tuple(a for a in alternatives if a is not type(None))
    kinds = {a.kind: a for a in alternatives if hasattr(a, "kind")}
    if kinds and isinstance(value, Mapping):
        if value.get("kind") not in kinds:
            raise PluginError(
                f"{where} is of kind '{value.get('kind')}', which is none of "
                f"{', '.join(kinds)}"
            )
        return parse(kinds[value["kind"]], value, where)
    for alternative in alternatives[:-1]:
        try:
            return _value(alternative, value, where)
        except PluginError:
            continue
    return _value(alternatives[-1], value, where)


def check_types(options_class: type, options: Mapping[str, Any]) -> None:
    """Refuse values given in Python that are of another type than the class says.

    Args:
        options_class: a data class.
        options: values by name; names that are not the class's are passed over.

    Raises:
        PluginError: naming the option, its value and what it has to be.
    """
    hints = get_type_hints(options_class)
    for name, value in options.items():
        hint = hints.get(name, Any)
        union = get_origin(hint) in (Union, types.UnionType)
        known = [
            get_origin(one) or one for one in (get_args(hint) if union else [hint])
        ]
        if Any in known or any(_is_of(value, one) for one in known):
            continue
        names = " or ".join(one.__name__.replace("NoneType", "None") for one in known)
        raise PluginError(f"{name} {value!r} must be of type {names}")


def _is_of(value: Any, wanted: type) -> bool:
    if isinstance(value, bool):  # no number
        return wanted is bool
    return isinstance(value, _ABSTRACT.get(wanted, wanted))
