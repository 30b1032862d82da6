"""What the command lines share: YAML configurations and errors."""

import argparse
import dataclasses
import errno
import logging
import sys
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

from espnet_onnx_plugin.errors import PluginError


class ArgumentParser(argparse.ArgumentParser):
    """argparse with ESPnet's strict ``--config FILE.yaml`` and one-line errors.

    The command line wins over the file. A key of the file that is no option is an
    error.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)
        self.add_argument("--config", help="options from a YAML file")
        self.add_argument(
            "--log_level",
            type=str.upper,
            default="INFO",
            choices=("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"),
        )

    def error(self, message: str) -> None:
        """One line, where argparse would print the usage first."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_known_args(self, args=None, namespace=None):
        """Read ``--config`` first, as defaults."""
        pre = argparse.ArgumentParser(add_help=False)
        pre.add_argument("--config")
        config = pre.parse_known_args(args)[0].config
        if config is not None:
            self._take(config)
        return super().parse_known_args(args, namespace)

    def _take(self, config: str) -> None:
        import yaml

        try:
            values = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as e:
            self.error(f"cannot read --config {config}: {e}")
        except yaml.YAMLError as e:
            self.error(f"--config {config} is not YAML: {' '.join(str(e).split())}")
        values = {} if values is None else values
        if not isinstance(values, dict):
            self.error(f"--config {config} does not hold options: {values!r}")
        actions = {action.dest: action for action in self._actions}
        for key in values:
            if key not in actions or key == "config":
                self.error(f"unknown option '{key}' in --config {config}")
        self.set_defaults(**values)
        for key in values:  # a required option may stand in the file
            actions[key].required = False


def str2bool(value: str) -> bool:
    """``true`` or ``false``, in ESPnet's spellings."""
    lowered = str(value).lower()
    if lowered in ("true", "1", "yes", "y", "t", "on"):
        return True
    if lowered in ("false", "0", "no", "n", "f", "off"):
        return False
    raise argparse.ArgumentTypeError(f"'{value}' is neither true nor false")


def str_or_none(value: str) -> Optional[str]:
    """A string; ``none`` and the empty one are None, as in ESPnet."""
    return None if value.strip().lower() in ("", "none", "null", "nil") else value


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
        type=int,
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
        type=int,
        default=10,
        help="how many of these, spread over the file",
    )


def triple(value: str) -> Tuple[str, str, str]:
    """``PATH,NAME,TYPE``."""
    parts = value.rsplit(",", 2)
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"'{value}' is not PATH,NAME,TYPE")
    return parts[0].strip(), parts[1].strip(), parts[2].strip()


def calibration_source(args: argparse.Namespace, model: Any) -> "Optional[Any]":
    """The audio, or the texts, that :func:`add_derive_options` asks for, or None.

    Args:
        args: parsed options.
        model: the bundle that reads it.

    Raises:
        PluginError: if it is given what it cannot read.
    """
    from espnet_onnx_plugin.runtime.data import Source
    from espnet_onnx_plugin.runtime.tts_data import Texts

    data, speaks = args.data_path_and_name_and_type, model.manifest.task == "tts"
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
        if model.manifest.task != "slu":
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
    parser: ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    cmd: Optional[Sequence[str]] = None,
) -> None:
    """Parse, run, and turn what a user can mend into one line and exit code 1."""
    arguments: Optional[List[str]] = None if cmd is None else list(cmd)
    args = parser.parse_args(arguments)
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
