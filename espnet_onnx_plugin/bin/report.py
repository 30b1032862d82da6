"""Write tables that compare decode directories."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import List, Optional, Sequence

from espnet_onnx_plugin.bin._common import ArgumentParser, run


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(
        prog="report",
        description="Compare decode directories: error rates, agreement, speed, size",
    )
    parser.add_argument(
        "--system",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "DECODE_DIR [MODEL_PATH ...]"),
        help="a system: its name, its decode directory (with one directory for each "
        "test set) and the files or directories of its model, whose sizes are added",
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        metavar=("NAME", "DECODE_DIR [MODEL_PATH ...]"),
        help="what the systems are compared with, given in the same way",
    )
    parser.add_argument(
        "--test_sets", nargs="+", required=True, help="directories in each DECODE_DIR"
    )
    parser.add_argument("--title", default="ONNX decoding", help="of the tables")
    parser.add_argument(
        "--fact",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "TEXT"),
        help="a line above the tables, e.g. how many threads each job had",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="of RESULTS.* and plots"
    )
    return parser


def report(args: argparse.Namespace) -> None:
    """Read, compare, write."""
    from espnet_onnx_plugin.errors import PluginError
    from espnet_onnx_plugin.report import plots, tables
    from espnet_onnx_plugin.report.results import System, compare

    def system(values: List[str]) -> System:
        name, *paths = values
        if not paths:
            raise PluginError(f"'{name}' lacks its decode directory: NAME DECODE_DIR")
        return System(name, Path(paths[0]), tuple(map(Path, paths[1:])))

    results = compare(
        args.test_sets,
        [system(values) for values in args.system],
        system(args.reference) if args.reference else None,
    )
    facts = dict(args.fact)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for suffix, text in {
        "md": tables.to_markdown(args.title, facts, results),
        "tex": tables.to_latex(args.title, facts, results),
        "csv": tables.to_csv(results),
    }.items():
        tables.write_atomically(args.output_dir / f"RESULTS.{suffix}", text)
    if find_spec("matplotlib") is None:
        plotted = "no plots, they need matplotlib"
    else:
        plotted = ", ".join(plots.plot_results(args.output_dir, results)) or "no plots"
    print(f"wrote {args.output_dir}/RESULTS.md, .tex and .csv; {plotted}")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Entry point."""
    run(get_parser(), report, cmd)


if __name__ == "__main__":
    main()
