"""Time ESPnet's own inference.

ESPnet's decoding itself runs, with every option of ``espnet2.bin.asr_inference`` or
another of its modules; only its ``Speech2Text`` is replaced by one that measures each
call. ``OUTPUT_DIR`` receives what ESPnet writes and ``timing.jsonl``, in the form of
the ONNX decoder's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.tables import write_atomically
from espnet_onnx_plugin.runtime.data import read_keys
from espnet_onnx_plugin.runtime.memory import peak_memory_mb

# The frame shift of Kaldi-style features, for which no training option says it.
FEATURE_FRAME_SECONDS = 0.01


def get_parser(
    name: str = "asr_inference", prog: str = "asr_reference"
) -> argparse.ArgumentParser:
    """Return the options of espnet2.bin.NAME and our own."""
    parser = importlib.import_module(f"espnet2.bin.{name}").get_parser()
    parser.prog = prog
    parser.description = "Run ESPnet's own ASR inference and time every utterance"
    group = parser.add_argument_group("Timing related")
    group.add_argument(
        "--num_threads", type=int, default=1, help="Threads of PyTorch on the CPU"
    )
    return parser


def time_inference(
    options: dict, num_threads: int, name: str = "asr_inference"
) -> list[dict]:
    """Run ESPnet's inference.

    Args:
        options: Arguments of espnet2.bin.NAME.inference.
        num_threads: Threads of PyTorch.
        name: Of the module.

    Returns:
        One timing for each utterance: key, audio_seconds, total_seconds and
        peak_memory_mb (the process's peak resident set so far, MiB).
    """
    import torch

    module = importlib.import_module(f"espnet2.bin.{name}")
    torch.set_num_threads(num_threads)
    keys = read_keys(
        options["key_file"] or options["data_path_and_name_and_type"][0][0]
    )
    if not keys:
        raise PluginError("no utterance to decode")
    timings: list[dict] = []

    class TimedSpeech2Text(module.Speech2Text):
        """ESPnet's Speech2Text, which ESPnet's loop calls once for each key."""

        def __call__(self, speech, *args, **kwargs):
            start = time.perf_counter()
            try:
                return super().__call__(speech, *args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                timings.append(
                    {
                        "key": keys[len(timings)],
                        "audio_seconds": self._audio_seconds(speech),
                        "total_seconds": seconds,
                        "peak_memory_mb": peak_memory_mb(),
                    }
                )

        def _audio_seconds(self, speech) -> float:
            import humanfriendly

            if speech.ndim == 2 and self.asr_train_args.input_size is not None:
                return len(speech) * FEATURE_FRAME_SECONDS
            conf = getattr(self.asr_train_args, "frontend_conf", None) or {}
            return len(speech) / humanfriendly.parse_size(str(conf.get("fs", 16000)))

    with mock.patch.object(module, "Speech2Text", TimedSpeech2Text):
        module.inference(**options)
    if len(timings) != len(keys):
        raise PluginError(f"{len(keys)} utterances, but {len(timings)} were decoded")
    return timings


def reference(args: argparse.Namespace, name: str = "asr_inference") -> None:
    """Run ESPnet's inference and write what it took."""
    options = vars(args)
    options.pop("config", None)
    timings = time_inference(options, options.pop("num_threads"), name)
    path = Path(options["output_dir"]) / "timing.jsonl"
    write_atomically(path, "".join(json.dumps(timing) + "\n" for timing in timings))
    audio = sum(timing["audio_seconds"] for timing in timings)
    total = sum(timing["total_seconds"] for timing in timings)
    print(f"timed {len(timings)} utterances of {audio:.1f} s: RTF {total / audio:.3f}")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), reference, cmd)


if __name__ == "__main__":
    main()
