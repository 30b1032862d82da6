"""Choose the utterances of a test set on which decoders are timed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import ArgumentParser, at_least_one


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(
        prog="sample", description="Choose utterances to time decoders on"
    )
    parser.add_argument(
        "--scp", required=True, help="SCP,TYPE, e.g. dump/raw/test/wav.scp,sound"
    )
    parser.add_argument(
        "--num_utts",
        type=at_least_one,
        default=20,
        help="the size of the sample, evenly spread and with the longest utterance",
    )
    parser.add_argument("--output_file", type=Path, required=True, help="their keys")
    return parser


def sample(args: argparse.Namespace) -> None:
    """Read lengths, choose, write."""
    from espnet_onnx_plugin.evaluate.sample import choose_keys, read_lengths
    from espnet_onnx_plugin.files import write_whole
    from espnet_onnx_plugin.runtime.io.data import Source

    keys = choose_keys(read_lengths(Source.parse(args.scp)), args.num_utts)
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output_file, "".join(f"{key}\n" for key in keys))
    print(f"chose {len(keys)} utterances of {args.scp}")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), sample, cmd)


if __name__ == "__main__":
    main()
