"""Time ESPnet's own inference.

ESPnet's decoding itself runs, with every option of its command; only the class that
decodes is replaced by one that measures each call. ``OUTPUT_DIR`` receives
what ESPnet writes and ``timing.jsonl``, in the form of the ONNX decoder's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import add_trust
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.replace import replaced
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.lists import read_keys
from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
from espnet_onnx_plugin.tasks import door_called, task_called

# The frame shift of Kaldi-style features, for which no training option says it.
FEATURE_FRAME_SECONDS = 0.01


def get_parser(command: str) -> argparse.ArgumentParser:
    """Return the options of a command of espnet2.bin and our own."""
    parser = importlib.import_module(f"espnet2.bin.{command}").get_parser()
    parser.prog = "reference"
    parser.description = "Run ESPnet's own inference and time every utterance"
    for action in parser._actions:
        # argparse takes "4.56% CER", which a text of ESPnet 202611 holds, for a format.
        action.help = re.sub(r"%(?!\()%?", "%%", action.help or "")
    parser.add_argument("--inference", default=command, help="Command of espnet2.bin")
    group = parser.add_argument_group("Timing related")
    group.add_argument(
        "--num_threads", type=int, default=1, help="Threads of PyTorch on the CPU"
    )
    add_trust(parser.add_argument_group("The model configuration related"))
    return parser


def _heard_seconds(model: Any, audio: Audio, fs: int | None) -> float:
    """Length of the speech that a model is given, before ESPnet pads it.

    Args:
        model: ESPnet's class.
        audio: what it is given.
        fs: sampling rate that the command was told.
    """
    import humanfriendly

    [args] = [v for k, v in vars(model).items() if k.endswith("_train_args")]
    if audio.array.ndim == 2 and getattr(args, "input_size", None) is not None:
        return len(audio.array) * FEATURE_FRAME_SECONDS
    conf = getattr(args, "frontend_conf", None) or {}
    rate = audio.rate or fs or humanfriendly.parse_size(str(conf.get("fs", 16000)))
    return len(audio.array) / rate


def _spoken_seconds(model: Any, made: Any) -> float:
    """Length of the waveform that a model has made."""
    return len(made["wav"]) / model.fs if made else 0.0


def time_inference(command: str, options: dict, num_threads: int) -> list[dict]:
    """Run ESPnet's inference.

    Args:
        command: Module of espnet2.bin.
        options: Arguments of its function inference.
        num_threads: Threads of PyTorch.

    Returns:
        One timing for each utterance: key, audio_seconds, total_seconds and
        peak_memory_mb (the process's peak resident set so far, MiB); of speech that is
        synthesized first_audio_seconds too, the total, for it comes in one piece.
    """
    import torch

    module = importlib.import_module(f"espnet2.bin.{command}")
    decoder = door_called(command).name
    torch.set_num_threads(num_threads)
    heard = task_called(command).audio
    data = options["data_path_and_name_and_type"]
    keys = read_keys(options["key_file"] or data[0][0])
    if heard:
        [source] = [Source(Path(p), kind) for p, name, kind in data if name == heard]
        entries = source.entries()
    timings: list[dict] = []
    spent = 0.0  # on the parts of the utterance so far, where it is a stream

    def timed(cls: type) -> type:
        class Timed(cls):
            """ESPnet's class, which ESPnet's loop calls for each key: once, or with
            the parts of a stream.
            """

            def __call__(self, *parts, **inputs):
                return self._timed(super().__call__, *parts, **inputs)

            def streaming_decode(self, *parts, **inputs):
                """Decode a part, of the transducers that have a method for it."""
                return self._timed(super().streaming_decode, *parts, **inputs)

            def _timed(self, decode, *parts, **inputs):
                """Decode, and write down what it took when the utterance is over."""
                nonlocal spent
                made = None
                start = time.perf_counter()
                try:
                    made = decode(*parts, **inputs)
                    return made
                finally:
                    spent += time.perf_counter() - start
                    if inputs.get("is_final", True):
                        seconds, spent = spent, 0.0
                        self._write(made, seconds)

            def _write(self, made, seconds):
                """Write down what an utterance took."""
                memory, key = peak_memory_mb(), keys[len(timings)]
                if heard:
                    audio = source.read(key, entries[key])
                    length = _heard_seconds(self, audio, options.get("fs"))
                else:
                    length = _spoken_seconds(self, made)
                timing = {
                    "key": key,
                    "audio_seconds": length,
                    "total_seconds": seconds,
                    "peak_memory_mb": memory,
                }
                if not heard:
                    timing["first_audio_seconds"] = seconds
                timings.append(timing)

        return Timed

    # s2t_inference_ctc decodes with one class at beam 1, else with the other.
    names = {decoder, "Speech2Text"}
    classes = {n: timed(getattr(module, n)) for n in names if hasattr(module, n)}
    with contextlib.ExitStack() as stack:
        for name, cls in classes.items():
            stack.enter_context(replaced(module, name, cls))
        module.inference(**options)
    if len(timings) != len(keys):
        raise PluginError(f"{len(keys)} utterances, but {len(timings)} were decoded")
    return timings


def reference(args: argparse.Namespace) -> None:
    """Run ESPnet's inference and write what it took."""
    options = vars(args)
    options.pop("config", None)
    # They import torch, and --help has to be fast.
    from espnet_onnx_plugin.export.checkpoint_file import trusting, weights_only
    from espnet_onnx_plugin.export.model_zoo import zoo_checked

    command, threads = options.pop("inference"), options.pop("num_threads")
    if options.get("batch_size", 1) != 1:
        # From 202611 on a batch does not go through what is timed.
        print("batch_size is 1 here: utterances are timed one by one")
        options["batch_size"] = 1
    with trusting(options.pop("trust_checkpoint")), weights_only(), zoo_checked():
        timings = time_inference(command, options, threads)
    path = Path(options["output_dir"]) / "timing.jsonl"
    write_whole(path, "".join(json.dumps(timing) + "\n" for timing in timings))
    audio = sum(timing["audio_seconds"] for timing in timings)
    total = sum(timing["total_seconds"] for timing in timings)
    print(f"timed {len(timings)} utterances of {audio:.1f} s: RTF {total / audio:.3f}")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    pre = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    pre.add_argument("--inference", default="asr_inference")
    run(get_parser(pre.parse_known_args(cmd)[0].inference), reference, cmd)


if __name__ == "__main__":
    main()
