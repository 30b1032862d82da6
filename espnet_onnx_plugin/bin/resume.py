"""List what is left to do of a recipe's decode."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import add_force
from espnet_onnx_plugin.bin._recipe_decode import decode_parser, recipe_decode


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = decode_parser(
        "resume", "List the utterances of a decode that its jobs have to decode"
    )
    parser.add_argument(
        "--todo", type=Path, required=True, help="file that lists them afterwards"
    )
    add_force(parser)
    return parser


def resume(args: argparse.Namespace) -> None:
    """List them and say how many are kept."""
    from espnet_onnx_plugin.files import write_whole

    decode = recipe_decode(args.decode_dir, args.inference)
    if args.force:
        decode.forget()
    left = decode.left()
    write_whole(args.todo, "".join(f"{key}\n" for key in left))
    total = len(decode.keys)
    print(f"kept {total - len(left):,} of {total:,}; {len(left):,} to decode")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), resume, cmd)


if __name__ == "__main__":
    main()
