"""A part in a process of its own: ``python -m gpu_checking.part NAME MODULE JOB``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from gpu_checking.job import Job

from espnet_onnx_plugin.bin._common import run


def run_part(args: argparse.Namespace) -> None:
    """Run it."""
    module = importlib.import_module(f"gpu_checking.{args.module}")
    getattr(module, args.name)(Job.from_json(args.job))


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="part")
    for name in ("name", "module", "job"):
        parser.add_argument(name)
    parser.set_defaults(log_level="INFO")
    run(parser, run_part, cmd)


if __name__ == "__main__":
    main()
