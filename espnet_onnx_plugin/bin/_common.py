"""Options of a check on data, and errors in one line: shared by the commands."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_onnx_plugin.bin._parser import ArgumentParser, at_least_one, triple
from espnet_onnx_plugin.errors import PluginError

if TYPE_CHECKING:
    from espnet_onnx_plugin.bundle import Bundle
    from espnet_onnx_plugin.runtime.io.data import Source
    from espnet_onnx_plugin.runtime.synthesis.inputs import Texts


def add_derive_options(parser: ArgumentParser, utterances: int) -> None:
    """The options of a command that makes one bundle of another.

    Args:
        utterances: default of how many the check takes.
    """
    parser.add_argument("--model_dir", type=Path, required=True, help="the bundle")
    parser.add_argument("--output_dir", type=Path, required=True, help="the new one")
    parser.add_argument(
        "--calibration_scp",
        help="SCP,TYPE of audio for the check, e.g. dump/raw/dev/wav.scp,sound",
    )
    parser.add_argument(
        "--calibration_utterances",
        type=at_least_one,
        default=utterances,
        help="how many of them, spread over the file",
    )
    parser.add_argument(
        "--calibration_transcript",
        type=Path,
        help="what was said in it (Kaldi's text), for a model that reads transcripts",
    )
    parser.add_argument(
        "--data_path_and_name_and_type",
        type=triple,
        action="append",
        help="of task tts, in the place of --calibration_scp: texts and what belongs "
        "to them, as ESPnet's tts_inference takes them",
    )
    parser.add_argument(
        "--calibration_texts",
        type=at_least_one,
        default=10,
        help="how many of these, spread over the file",
    )


def calibration_source(
    args: argparse.Namespace, model: Bundle
) -> Source | Texts | None:
    """The audio, or the texts, that :func:`add_derive_options` asks for, or None.

    Args:
        args: parsed options.
        model: the bundle that reads it.

    Raises:
        PluginError: if it is given what it cannot read.
    """
    from espnet_onnx_plugin.runtime.io.data import Source
    from espnet_onnx_plugin.runtime.synthesis.inputs import Texts
    from espnet_onnx_plugin.tasks import task_of

    task = task_of(model)
    data, speaks = args.data_path_and_name_and_type, task.gives == "speech"
    if data is not None and not speaks:
        raise PluginError(
            "--data_path_and_name_and_type is for models of task tts; give the audio "
            "as --calibration_scp"
        )
    if speaks and (args.calibration_scp or args.calibration_transcript):
        raise PluginError(
            "a model of task tts speaks: give texts as --data_path_and_name_and_type "
            "in the place of --calibration_scp and --calibration_transcript"
        )
    if speaks:
        return None if data is None else Texts(data, args.calibration_texts)
    if args.calibration_transcript is not None:
        if "transcript" not in task.reads:
            raise PluginError(
                "--calibration_transcript is for models of task slu, which read it; "
                "transcripts for the error rate are --calibration_text"
            )
        if not args.calibration_scp:
            raise PluginError(
                "--calibration_transcript needs the audio: --calibration_scp"
            )
    if not args.calibration_scp:
        return None
    others = {}
    if args.calibration_transcript is not None:
        others["transcript"] = args.calibration_transcript
    source = Source.parse(args.calibration_scp, args.calibration_utterances)
    return dataclasses.replace(source, others=others)


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
        command(args)
    except PluginError as e:
        message = str(e)
    except OSError as e:
        # Reading input is guarded where it happens; what remains is writing.
        message = f"{e.filename or 'output'}: {e.strerror or e}"
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; free some space and run again"
    else:
        return
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
