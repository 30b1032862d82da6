"""Write tables that compare decode directories."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import ArgumentParser, add_wait, at_least_one


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
        "test set, or with {test_set} for the name of one) and the files or "
        "directories of its model, whose sizes are added",
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
    group = parser.add_argument_group("Synthesized speech")
    group.add_argument(
        "--data_dir",
        type=Path,
        help="directory with one for each test set, of its text and, to compare with, "
        "its recordings (wav.scp); without it the systems are recognizers",
    )
    group.add_argument(
        "--asr_model_dir", type=Path, help="a bundle that recognizes what is spoken"
    )
    group.add_argument(
        "--num_utts",
        type=at_least_one,
        default=20,
        help="how many utterances of each test set to measure, spread over it",
    )
    group = parser.add_argument_group("Enhanced speech")
    group.add_argument(
        "--mixture_dir",
        type=Path,
        help="directory with one for each test set, of its mixtures (wav.scp) and "
        "clean speech (spkN.scp); without it the systems do not enhance",
    )
    group.add_argument(
        "--diarization",
        action="store_true",
        help="the systems also say who speaks when, and may count the speakers",
    )
    group.add_argument(
        "--asr_dir",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "DIR"),
        help="where ESPnet recognized the speech of a system, with a directory for "
        "each test set",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="of RESULTS.* and plots"
    )
    add_wait(parser)
    return parser


def report(args: argparse.Namespace) -> None:
    """Read, compare, write."""
    from espnet_onnx_plugin.errors import PluginError
    from espnet_onnx_plugin.evaluate.asr_scoring import AsrScorer
    from espnet_onnx_plugin.files import held, write_whole
    from espnet_onnx_plugin.report import plots, tables
    from espnet_onnx_plugin.report.decodes import compare
    from espnet_onnx_plugin.report.diarized import compare_diarized
    from espnet_onnx_plugin.report.enhanced import EnhancedSet, compare_enhanced
    from espnet_onnx_plugin.report.figures import to_csv
    from espnet_onnx_plugin.report.results import System
    from espnet_onnx_plugin.report.speech import SynthesizedSet, compare_speech
    from espnet_onnx_plugin.runtime.core.device import Device

    def system(values: list[str]) -> System:
        name, *paths = values
        if not paths:
            raise PluginError(f"'{name}' lacks its decode directory: NAME DECODE_DIR")
        return System(name, Path(paths[0]), tuple(map(Path, paths[1:])))

    systems = [system(values) for values in args.system]
    reference = system(args.reference) if args.reference else None
    for test_set in args.test_sets:
        for one in systems:
            one.check_decode(test_set)
    facts = dict(args.fact)
    if args.asr_model_dir is not None and args.data_dir is None:
        raise PluginError("--asr_model_dir needs the texts: --data_dir")
    if args.asr_dir and args.mixture_dir is None:
        raise PluginError("--asr_dir is for enhanced speech: --mixture_dir")
    if args.diarization and args.mixture_dir is None:
        raise PluginError("--diarization is of mixtures: --mixture_dir")
    heard: Sequence[EnhancedSet] | Sequence[SynthesizedSet] = []
    if args.diarization:
        heard = compare_diarized(args.test_sets, systems, reference, args.mixture_dir)
    elif args.mixture_dir is not None:
        if args.data_dir is not None:
            raise PluginError("--mixture_dir and --data_dir exclude each other")
        asr_dirs = {name: Path(path) for name, path in args.asr_dir}
        heard = compare_enhanced(
            args.test_sets, systems, reference, args.mixture_dir, asr_dirs
        )
    elif args.data_dir is not None:
        transcribe = None
        if args.asr_model_dir is not None:
            transcribe = AsrScorer(args.asr_model_dir, Device()).transcribe_file
            facts["ASR model"] = str(args.asr_model_dir)
        heard = compare_speech(
            args.test_sets, systems, reference, args.data_dir, args.num_utts, transcribe
        )
    if heard:
        results = [row for a_set in heard for row in a_set.results()]
    else:
        results = compare(args.test_sets, systems, reference)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with held(args.output_dir / "RESULTS"):
        plotted, pages = "no plots, they need matplotlib", {}
        if find_spec("matplotlib") is not None:
            names = plots.plot_results(args.output_dir, results)
            pages = {a_set.name: a_set.write_page(args.output_dir) for a_set in heard}
            plotted = ", ".join([*names, *pages.values()]) or "no plots"
        for suffix, text in {
            "md": tables.to_markdown(args.title, facts, results, pages),
            "tex": tables.to_latex(args.title, facts, results),
            "csv": to_csv(results),
        }.items():
            write_whole(args.output_dir / f"RESULTS.{suffix}", text)
    print(f"wrote {args.output_dir}/RESULTS.md, .tex and .csv; {plotted}")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), report, cmd)


if __name__ == "__main__":
    main()
