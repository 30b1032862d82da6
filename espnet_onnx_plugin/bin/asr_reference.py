"""Time ESPnet's own inference on a sample of a test set.

ESPnet's decoding itself runs, with every option of ``espnet2.bin.asr_inference``; only
its ``Speech2Text`` is replaced by one that measures each call. ``OUTPUT_DIR`` receives
what ESPnet writes and ``timing.jsonl``, in the form of the ONNX decoder's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.tables import write_atomically
from espnet_onnx_plugin.runtime.memory import peak_memory_mb

# The frame shift of Kaldi-style features, for which no training option says it.
FEATURE_FRAME_SECONDS = 0.01
# Lengths that ESPnet's data preparation leaves beside a wav.scp or feats.scp.
LENGTH_FILES = ("utt2num_samples", "utt2num_frames")


def get_parser() -> argparse.ArgumentParser:
    """Return the options of espnet2.bin.asr_inference and our own."""
    from espnet2.bin.asr_inference import get_parser as get_espnet_parser

    parser = get_espnet_parser()
    parser.prog = "asr_reference"
    parser.description = "Time ESPnet's own ASR inference on a sample of a test set"
    group = parser.add_argument_group("Timing related")
    group.add_argument(
        "--num_threads", type=int, default=1, help="Threads of PyTorch on the CPU"
    )
    group.add_argument(
        "--num_utts",
        type=int,
        default=20,
        help="The size of the sample, evenly spread and with the longest utterance",
    )
    return parser


def choose_keys(lengths: Mapping[str, int], num_utts: int) -> list[str]:
    """Choose a sample of utterances.

    Args:
        lengths: Length of each utterance, in any one unit.
        num_utts: Size of the sample.

    Returns:
        Keys in the given order: the longest, and others at even distances.
    """
    if num_utts < 1:
        raise PluginError(f"--num_utts {num_utts}: must be 1 or more")
    if len(lengths) <= num_utts:
        return list(lengths)
    longest = max(lengths, key=lambda key: lengths[key])
    others = [key for key in lengths if key != longest]
    chosen = {others[i * len(others) // (num_utts - 1)] for i in range(num_utts - 1)}
    return [key for key in lengths if key in chosen or key == longest]


def read_lengths(path: Path, data_type: str) -> dict[str, int]:
    """Return the length of each utterance of a wav.scp or feats.scp."""
    from espnet2.train.iterable_dataset import DATA_TYPES

    entries = _read_pairs(path)
    if not entries:
        raise PluginError(f"{path}: no utterance")
    for name in LENGTH_FILES:
        if path.with_name(name).is_file():
            known = _read_pairs(path.with_name(name))
            if known.keys() >= entries.keys():
                return {key: int(known[key]) for key in entries}
    load = DATA_TYPES[data_type]
    return {key: len(load(value)) for key, value in entries.items()}


def _read_pairs(path: Path) -> dict[str, str]:
    with open(path, encoding="utf-8") as f:
        return dict(line.rstrip().split(maxsplit=1) for line in f if line.strip())


def time_inference(options: dict, num_threads: int, num_utts: int) -> list[dict]:
    """Run ESPnet's inference on a sample.

    Args:
        options: Arguments of espnet2.bin.asr_inference.inference.
        num_threads: Threads of PyTorch.
        num_utts: Size of the sample.

    Returns:
        One timing for each utterance: key, audio_seconds, total_seconds and
        peak_memory_mb (the process's peak resident set so far, MiB). The first
        utterance is decoded once before it is timed.
    """
    import torch
    from espnet2.bin import asr_inference

    torch.set_num_threads(num_threads)
    output_dir = Path(options["output_dir"])
    path, _, data_type = options["data_path_and_name_and_type"][0]
    keys = choose_keys(read_lengths(Path(path), data_type), num_utts)
    output_dir.mkdir(parents=True, exist_ok=True)
    key_file = output_dir / "keys.scp"
    key_file.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
    timings: list[dict] = []

    class TimedSpeech2Text(asr_inference.Speech2Text):
        """ESPnet's Speech2Text, which ESPnet's loop calls once for each key."""

        def __call__(self, speech, *args, **kwargs):
            if not timings:
                self._call_and_ignore_errors(speech, *args, **kwargs)
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

        def _call_and_ignore_errors(self, *args, **kwargs):
            # What it raises (e.g. for a too short utterance) the timed call raises
            # again, into ESPnet's loop, which knows what to do.
            try:
                super().__call__(*args, **kwargs)
            except Exception:
                return

        def _audio_seconds(self, speech) -> float:
            import humanfriendly

            if speech.ndim == 2 and self.asr_train_args.input_size is not None:
                return len(speech) * FEATURE_FRAME_SECONDS
            conf = getattr(self.asr_train_args, "frontend_conf", None) or {}
            return len(speech) / humanfriendly.parse_size(str(conf.get("fs", 16000)))

    with mock.patch.object(asr_inference, "Speech2Text", TimedSpeech2Text):
        asr_inference.inference(**{**options, "key_file": str(key_file)})
    if len(timings) != len(keys):
        raise PluginError(f"{len(keys)} utterances, but {len(timings)} were decoded")
    return timings


def reference(args: argparse.Namespace) -> None:
    """Run ESPnet's inference on a sample and write what it took."""
    options = vars(args)
    options.pop("config", None)
    num_threads, num_utts = options.pop("num_threads"), options.pop("num_utts")
    timings = time_inference(options, num_threads, num_utts)
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
