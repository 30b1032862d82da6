"""Base of the commands that begin and end a recipe's decode."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_onnx_plugin.bin._parser import OneLineParser, add_log_level
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.tasks import door_called

if TYPE_CHECKING:
    from espnet_onnx_plugin.runtime.io.recipe_decode import RecipeDecode


def decode_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser of the decode's directory and the command line of its jobs."""
    parser = OneLineParser(prog=prog, description=description)
    parser.add_argument("--decode_dir", type=Path, required=True)
    parser.add_argument(
        "inference",
        nargs=argparse.REMAINDER,
        help="the command that decodes and its options; --key_file lists all "
        "utterances, --output_dir is where the jobs write",
    )
    add_log_level(parser)
    return parser


def recipe_decode(decode_dir: Path, inference: Sequence[str]) -> RecipeDecode:
    """The decode that a command line of jobs makes.

    Args:
        decode_dir: its directory.
        inference: name of the command and its options.

    Raises:
        PluginError: if the bundle, the lists or the options are refused.
    """
    from espnet_onnx_plugin.runtime.io.lists import read_keys
    from espnet_onnx_plugin.runtime.io.recipe_decode import RecipeDecode

    if not inference:
        raise PluginError("give the command that decodes, with its options")
    name, *options = inference
    door_called(name)  # or it is refused
    command = importlib.import_module(f"espnet_onnx_plugin.bin.{name}").COMMAND
    args = command.get_parser().parse_args(options)
    command.check(args)
    if not args.key_file:
        raise PluginError(f"give {name} the utterances as --key_file")
    return RecipeDecode(
        decode_dir,
        Path(args.output_dir),
        command.writer,
        read_keys(args.key_file),
        command.facts(args),
        command.digests(args),
    )
