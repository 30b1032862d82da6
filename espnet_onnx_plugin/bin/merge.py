"""Put together what the jobs of a recipe's decode have written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._recipe_decode import decode_parser, recipe_decode


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = decode_parser(
        "merge", "Make a decode's result files of what its jobs have written"
    )
    parser.add_argument(
        "--max_failures",
        type=int,
        default=0,
        help="how many utterances may have no result",
    )
    parser.add_argument(
        "--files", default="", help="the result files to make, default: all"
    )
    return parser


def merge(args: argparse.Namespace) -> None:
    """Merge and say how much."""
    decode = recipe_decode(args.decode_dir, args.inference)
    decode.merge(args.max_failures, args.files.split())
    print(f"{args.decode_dir}: {len(decode.keys):,} utterances")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), merge, cmd)


if __name__ == "__main__":
    main()
