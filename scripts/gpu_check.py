#!/usr/bin/env python3
"""Check and measure a provider in ten minutes, without a network.

Usage: scripts/gpu_check.py --output_dir DIR
(needs the extras export, optimize and tts-report, and onnxruntime-gpu; see
scripts/gpu_checking/README.md)

Models have random weights and audio is made. results.json and RESULTS.md are written
anew whenever there is something new, so that a run which is cut keeps what it has.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpu_checking.job import Job
from gpu_checking.plan import Check, Part
from gpu_checking.results import OK, Results

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import add_log_level
from espnet_onnx_plugin.errors import PluginError

#: In the order of their worth; ``models`` are made beside those that measure no times.
PARTS = (
    Part("versions", "versions", "Machine and versions", 10, 60),
    Part("models", "models", "Models with random weights", 20, 240, background=True),
    Part("parity", "parity", "Hypotheses beside the CPU's", 20, 120, ("small",)),
    Part("voices", "parity", "Waveforms beside the CPU's", 15, 90, ("hifigan", "vits")),
    Part("beam", "speed", "Beam search", 40, 240, ("librispeech",), timed=True),
    Part("greedy", "speed", "CTC, greedy", 25, 100, ("librispeech",), timed=True),
    Part("operators", "operators", "Operators", 30, 100, ("librispeech", "hifigan")),
    Part(
        "settings",
        "settings",
        "Options",
        30,
        120,
        ("librispeech", "hifigan"),
        timed=True,
    ),
    Part("speech", "speed", "Synthesis", 25, 120, ("hifigan", "vits"), timed=True),
    Part("owsm", "speed", "OWSM", 30, 120, ("owsm",), timed=True),
    Part("rules", "rules", "Optimization", 20, 120, ("librispeech",), timed=True),
    Part("integers", "rules", "Eight bits", 20, 90, ("librispeech",), timed=True),
)


def get_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description="Check and measure a provider"
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="of results.json and RESULTS.md"
    )
    parser.add_argument(
        "--work_dir",
        type=Path,
        help="of models and logs, which the next run finds there (default: work in "
        "--output_dir)",
    )
    parser.add_argument(
        "--provider", choices=("cuda", "cpu"), default="cuda", help="what is measured"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="tiny models: shows that the check works, and nothing else",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="after which it ends"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[part.name for part in PARTS],
        metavar="NAME",
        help="parts to run, of " + ", ".join(part.name for part in PARTS),
    )
    add_log_level(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Run the parts that are asked for and show their results.

    Raises:
        PluginError: Naming those that failed or were not run.
    """
    setting = {"provider": args.provider, "tiny": args.tiny}
    results = Results(args.output_dir, setting)
    work_dir = (args.work_dir or args.output_dir / "work").resolve()

    job = Job(args.provider, args.tiny, work_dir, work_dir, 0.0)

    def command(part: Part, rows: Path, limit: float) -> list[str]:
        given = replace(job, rows=rows.resolve(), end=time.time() + limit)
        module = [sys.executable, "-m", "gpu_checking.part"]
        return [*module, part.name, part.module, given.to_json()]

    def decided(model: str) -> bool:
        return job.model(model).made() is not None

    seconds = args.minutes * 60
    chosen = [part for part in PARTS if args.only is None or part.name in args.only]
    if len(chosen) == 1:  # it has all of the time
        chosen = [replace(chosen[0], most=seconds)]
    if any(part.name == "models" for part in chosen):
        for model in job.sizes.models:
            job.model(model).forget_failures()
    # So that parts end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        Check(chosen, results, seconds, work_dir, command, decided).run()
    finally:
        print(results.page())
    wrong = [
        f"{part.name} ({results.parts[part.name].status})"
        for part in chosen
        if results.parts[part.name].status != OK
    ]
    if wrong:
        raise PluginError("; ".join(wrong))


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), check, cmd)


if __name__ == "__main__":
    main()
