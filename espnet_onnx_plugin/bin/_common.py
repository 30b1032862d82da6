"""Options of a check on data, and errors in one line: shared by the commands."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_onnx_plugin.bin._parser import (
    ArgumentParser,
    add_force,
    add_options,
    add_wait,
    values_of,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import InUseError

if TYPE_CHECKING:
    from espnet_onnx_plugin.evaluate.data_options import DataOptions
    from espnet_onnx_plugin.evaluate.evaluator import Evaluator
    from espnet_onnx_plugin.tasks import Task


def add_derive_options(
    parser: ArgumentParser, data: Sequence[type[DataOptions]]
) -> None:
    """The options of a command that makes one bundle of another.

    Args:
        data: those that give data to the check, a class for each kind of task.
    """
    parser.add_argument("--model_dir", type=Path, required=True, help="the bundle")
    parser.add_argument("--output_dir", type=Path, required=True, help="the new one")
    add_force(parser)
    add_wait(parser)
    for options_class in data:
        add_options(parser, options_class)


def make_evaluator(
    args: argparse.Namespace,
    task: Task,
    data: Sequence[type[DataOptions]],
    options: Mapping[str, Any] | None = None,
) -> Evaluator[Any]:
    """The evaluator of a task, with the data that its options give.

    Args:
        args: parsed options.
        task: the row of the bundle.
        data: as of :func:`add_derive_options`.
        options: ESPnet's decoding options.

    Raises:
        PluginError: if it is given what it cannot read.
    """
    from espnet_onnx_plugin.evaluate.evaluator import evaluator_class

    evaluator = evaluator_class(task)
    [own] = [known for known in data if issubclass(known, evaluator.data_class)]
    for other in data:
        for name, message in other.misplaced.items():
            if other is not own and getattr(args, name):
                raise PluginError(
                    message.format(task=task.name, does=own.does, instead=own.instead)
                )
    return evaluator.from_options(task, own(**values_of(args, own)), options)


#: What to do about errors of writing.
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run again"),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "give a directory that can be written, or make it one",
    ),
}


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    cmd: Sequence[str] | None = None,
) -> None:
    """Parse, run, and turn what a user can mend into one line and exit code 1."""
    args = parser.parse_args(cmd)
    logging.basicConfig(
        level=args.log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    try:
        _run_in_turn(command, args)
    except PluginError as e:
        message = str(e)
    except OSError as e:
        # Reading input is guarded where it happens; what remains is writing.
        message = f"{e.filename or 'output'}: {e.strerror or e}"
        if e.errno in _REMEDIES:
            message += f"; {_REMEDIES[e.errno]}"
    else:
        return
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def _run_in_turn(
    command: Callable[[argparse.Namespace], None], args: argparse.Namespace
) -> None:
    """Run, with ``--wait true`` as soon as nobody else writes the output."""
    waiting = False
    while True:
        try:
            return command(args)
        except InUseError as e:
            if not getattr(args, "wait", False):
                raise
            if not waiting:
                logging.info("waiting: %s", e)
            waiting = True
            time.sleep(1)
