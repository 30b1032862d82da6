"""What the command lines share: YAML configurations and errors."""

import argparse
import dataclasses
import errno
import logging
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from espnet_onnx_plugin.errors import PluginError


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


def at_least_one(value: str) -> int:
    """How many of something, at least 1: a check of none would find all well."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{value}' must be 1 or more")
    return number


def anything(value: Any) -> Any:
    """Any value, which is looked at later or not at all; ``none`` is None."""
    return str_or_none(value) if isinstance(value, str) else value


def settings(value: Any) -> Dict[str, Any]:
    """``NAME=VALUE,NAME=VALUE``, with values as in YAML; in a YAML file a mapping."""
    if isinstance(value, dict):
        return value
    pairs = [pair.partition("=") for pair in str(value).split(",")]
    if not all(separator for _, separator, _ in pairs):
        raise argparse.ArgumentTypeError(f"'{value}' is not NAME=VALUE,NAME=VALUE")
    import yaml

    try:
        return {name: yaml.safe_load(content) for name, _, content in pairs}
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"'{value}' holds a value that is not YAML")


#: Types that take the values of a YAML file as they are, lists and mappings too.
STRUCTURED = (anything, settings)

LOG_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """The option that says how much is printed."""
    parser.add_argument(
        "--log_level", type=str.upper, default="INFO", choices=LOG_LEVELS
    )


class ArgumentParser(argparse.ArgumentParser):
    """argparse with ESPnet's strict ``--config FILE.yaml`` and one-line errors.

    The command line wins over the file. A key of the file that is no option is an
    error, and so is a value that the command line would not take.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)
        self.add_argument("--config", help="options from a YAML file")
        add_log_level(self)

    def error(self, message: str) -> None:
        """One line, where argparse would print the usage first."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_known_args(self, args=None, namespace=None):
        """Read ``--config`` first, as defaults."""
        pre = argparse.ArgumentParser(add_help=False)
        pre.error = self.error
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
        for key, value in values.items():
            if key not in actions or key in ("config", "help"):
                self.error(f"unknown option '{key}' in --config {config}")
            try:
                self.set_defaults(**{key: self._value(actions[key], value)})
            except argparse.ArgumentError as e:
                self.error(f"--config {config}: {e}")
            actions[key].required = False  # a required option may stand in the file

    def _value(self, action: argparse.Action, value: Any) -> Any:
        """What the command line would make of a value of a YAML file.

        Raises:
            argparse.ArgumentError: if it would refuse the value.
        """
        if value is None and action.default is None and not action.required:
            return None
        if action.type in STRUCTURED:
            return self._get_value(action, value)
        if not isinstance(action, argparse._AppendAction):
            return self._once(action, value)
        return [
            self._once(action, one)
            for one in (value if isinstance(value, list) else [value])
        ]

    def _once(self, action: argparse.Action, value: Any) -> Any:
        """What an option makes of being given once, with one value or several."""
        wanted = action.nargs
        if wanted is None:
            return self._one(action, value)
        values = value if isinstance(value, list) else [value]
        if not (wanted == "*" or (wanted == "+" and values) or wanted == len(values)):
            raise argparse.ArgumentError(action, f"invalid number of values: {value}")
        return [self._one(action, one) for one in values]

    def _one(self, action: argparse.Action, value: Any) -> Any:
        if isinstance(value, (list, dict)):
            raise argparse.ArgumentError(action, f"invalid value: {value}")
        spelling = str(value)
        if value is None or isinstance(value, bool):
            spelling = {None: "null", True: "true", False: "false"}[value]
        made = self._get_value(action, spelling)
        if value is None and made is not None:
            raise argparse.ArgumentError(action, "invalid value: null")
        self._check_value(action, made)
        return made


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
