"""Write tables that compare decode directories."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.results import System, compare
from espnet_onnx_plugin.report.tables import (
    to_csv,
    to_latex,
    to_markdown,
    write_atomically,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description="Compare decode directories: error rates, agreement, speed, size",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--system",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "DECODE_DIR [MODEL_PATH ...]"),
        help="A system: its name, its decode directory (with one directory for each "
        "test set) and the files or directories of its model, whose sizes are added",
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        metavar=("NAME", "DECODE_DIR [MODEL_PATH ...]"),
        help="What the systems are compared with, given in the same way",
    )
    parser.add_argument(
        "--test_sets", nargs="+", required=True, help="Directories in each DECODE_DIR"
    )
    parser.add_argument("--title", default="ONNX decoding", help="The tables' title")
    parser.add_argument(
        "--fact",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "TEXT"),
        help="A line above the tables, e.g. how many threads each job had",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="For RESULTS.md, .tex and .csv"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Read, compare, write."""
    parser = get_parser()
    args = parser.parse_args(cmd)

    def system(values: list[str]) -> System:
        name, *paths = values
        if not paths:
            parser.error(f"'{name}': a decode directory must follow the name")
        return System(name, Path(paths[0]), tuple(map(Path, paths[1:])))

    systems = [system(values) for values in args.system]
    reference = system(args.reference) if args.reference else None
    try:
        results = compare(args.test_sets, systems, reference)
        facts = dict(args.fact)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        for suffix, text in {
            "md": to_markdown(args.title, facts, results),
            "tex": to_latex(args.title, facts, results),
            "csv": to_csv(results),
        }.items():
            write_atomically(args.output_dir / f"RESULTS.{suffix}", text)
    except (OSError, PluginError) as error:
        sys.exit(f"report: {error}")
    print(f"Wrote {args.output_dir}/RESULTS.md, .tex and .csv")


if __name__ == "__main__":
    main()
