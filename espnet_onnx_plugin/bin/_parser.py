"""Parsers: options of data classes, readers of values, and strict YAML files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.data_options import Count, DataFile

LOG_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")


def str2bool(value: str) -> bool:
    """``true`` or ``false``, in ESPnet's spellings."""
    lowered = str(value).lower()
    if lowered in ("true", "1", "yes", "y", "t", "on"):
        return True
    if lowered in ("false", "0", "no", "n", "f", "off"):
        return False
    raise argparse.ArgumentTypeError(f"'{value}' is neither true nor false")


def str_or_none(value: str) -> str | None:
    """A string; ``none`` and the empty one are None, as in ESPnet."""
    return None if value.strip().lower() in ("", "none", "null", "nil") else value


def at_least_one(value: str) -> int:
    """How many of something, at least 1: a check of none would find all well."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{value}' must be 1 or more")
    return number


def triple(value: str) -> tuple[str, str, str]:
    """``PATH,NAME,TYPE``."""
    parts = value.rsplit(",", 2)
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"'{value}' is not PATH,NAME,TYPE")
    return parts[0].strip(), parts[1].strip(), parts[2].strip()


def anything(value: Any) -> Any:
    """Any value, which is looked at later or not at all; ``none`` is None."""
    return str_or_none(value) if isinstance(value, str) else value


def settings(value: Any) -> Mapping[str, Any]:
    """``NAME=VALUE,NAME=VALUE``, with values as in YAML; in a YAML file a mapping."""
    if isinstance(value, dict):
        return value
    pairs = [pair.partition("=") for pair in str(value).split(",")]
    if not all(separator for _, separator, _ in pairs):
        raise argparse.ArgumentTypeError(f"'{value}' is not NAME=VALUE,NAME=VALUE")
    from espnet_onnx_plugin.bundle.yaml_file import load_yaml

    try:
        return {name: load_yaml(content, name) for name, _, content in pairs}
    except PluginError:
        raise argparse.ArgumentTypeError(f"'{value}' holds a value that is not YAML")


#: Readers that take the values of a YAML file as they are, lists and mappings too.
STRUCTURED = (anything, settings)

#: Readers by the type of a data class's field; other types read for themselves.
READERS: Mapping[Any, Callable[[str], Any]] = {
    bool: str2bool,
    str | None: str_or_none,
    int | None: int,
    float | None: float,
    Path | None: Path,
    Count: at_least_one,
    Mapping[str, Any]: settings,
    Mapping[str, Any] | None: settings,
    type(None): anything,
}

#: Arguments of argparse by the type of a data class's field that holds several values.
SEVERAL: Mapping[Any, Mapping[str, Any]] = {
    Sequence[Path]: dict(type=Path, nargs="+"),
    Sequence[DataFile] | None: dict(type=triple, action="append"),
}


def offered(options_class: type) -> Iterable[Field[Any]]:
    """The fields of a data class that are options of its command."""
    return (f for f in fields(options_class) if f.init and "help" in f.metadata)


def add_options(parser: argparse._ActionsContainer, options_class: type) -> None:
    """The options that a data class has for a command, in its order.

    Args:
        parser: a parser, or a group of its options.
        options_class: a data class with fields made by
            :func:`~espnet_onnx_plugin.bundle.typed.option`.
    """
    hints = get_type_hints(options_class)
    for field in offered(options_class):
        hint, about = hints[field.name], field.metadata
        reader = dict(type=about["read"] or READERS.get(hint, hint))
        parser.add_argument(
            f"--{field.name}",
            default=about["command"],
            help=about["help"],
            **SEVERAL.get(hint, reader),
        )


def values_of(args: argparse.Namespace, options_class: type) -> dict[str, Any]:
    """The values of the options that :func:`add_options` added, by name."""
    return {field.name: getattr(args, field.name) for field in offered(options_class)}


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """The option that says how much is printed."""
    parser.add_argument(
        "--log_level", type=str.upper, default="INFO", choices=LOG_LEVELS
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """The option of commands that leave alone what is up to date."""
    parser.add_argument(
        "--force",
        type=str2bool,
        default=False,
        help="make anew what an earlier run has made of the same",
    )


def add_wait(parser: argparse.ArgumentParser) -> None:
    """The option of commands that write a directory which another one may write."""
    parser.add_argument(
        "--wait",
        type=str2bool,
        default=False,
        help="where another process is writing the output, wait for its end",
    )


def add_trust(parser: argparse._ActionsContainer) -> None:
    """The option of commands that load checkpoints."""
    parser.add_argument(
        "--trust_checkpoint",
        type=str2bool,
        default=False,
        help="load checkpoints that hold more than weights too, which may run code",
    )


class OneLineParser(argparse.ArgumentParser):
    """argparse with errors of one line, where its own print the usage first."""

    def error(self, message: str) -> NoReturn:
        """Print and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


class ArgumentParser(OneLineParser):
    """argparse with ESPnet's strict ``--config FILE.yaml`` and one-line errors.

    The command line wins over the file. A key of the file that is no option is an
    error, and so is a value that the command line would not take.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)
        self.add_argument("--config", help="options from a YAML file")
        add_log_level(self)

    def parse_known_args(  # type: ignore[override]  # typeshed has overloads
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Read ``--config`` first, as defaults."""
        pre = OneLineParser(prog=self.prog, add_help=False)
        pre.add_argument("--config")
        config = pre.parse_known_args(args)[0].config
        if config is not None:
            self._take(config)
        return super().parse_known_args(args, namespace)

    def _take(self, config: str) -> None:
        """Make the values of a YAML file the defaults."""
        from espnet_onnx_plugin.bundle.yaml_file import read_yaml

        try:
            values = read_yaml(Path(config))
        except PluginError as e:
            self.error(f"--config: {e}")
        values = {} if values is None else values
        if not isinstance(values, dict):
            self.error(f"--config {config} does not hold options: {values!r}")
        actions = {action.dest: action for action in self._actions}
        for key, value in values.items():
            if key not in actions or key in ("config", "help"):
                self.error(f"unknown option '{key}' in --config {config}")
            try:
                self.set_defaults(**{key: self._value(actions[key], value)})
            except argparse.ArgumentError as e:
                self.error(f"--config {config}: {e}")
            actions[key].required = False  # a required option may stand in the file

    def _value(self, action: argparse.Action, value: Any) -> Any:
        """The value that the command line would make of a YAML file's.

        Raises:
            argparse.ArgumentError: if it would refuse the value.
        """
        if value is None and action.default is None and not action.required:
            return None
        if action.type in STRUCTURED:
            return self._get_value(action, value)
        if isinstance(action, argparse._AppendAction):
            return [self._once(action, one) for one in _listed(value)]
        return self._once(action, value)

    def _once(self, action: argparse.Action, value: Any) -> Any:
        """The value of an option that is given once, with one value or several."""
        wanted = action.nargs
        if wanted is None:
            return self._one(action, value)
        values = _listed(value)
        if not (wanted == "*" or (wanted == "+" and values) or wanted == len(values)):
            raise argparse.ArgumentError(action, f"invalid number of values: {value}")
        return [self._one(action, one) for one in values]

    def _one(self, action: argparse.Action, value: Any) -> Any:
        if isinstance(value, (list, dict)):
            raise argparse.ArgumentError(action, f"invalid value: {value}")
        named = value is None or isinstance(value, bool)  # null, true, false
        made = self._get_value(action, json.dumps(value) if named else str(value))
        if value is None and made is not None:
            raise argparse.ArgumentError(action, "invalid value: null")
        self._check_value(action, made)
        return made


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
