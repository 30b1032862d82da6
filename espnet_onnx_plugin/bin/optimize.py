"""Fuse the graphs of a bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from espnet_onnx_plugin.bin._common import add_derive_options, make_evaluator, run
from espnet_onnx_plugin.bin._parser import ArgumentParser
from espnet_onnx_plugin.evaluate.data_options import COMPARED


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(prog="optimize", description="Fuse the graphs of a bundle")
    add_derive_options(parser, COMPARED)
    parser.add_argument(
        "--provider", default="cpu", choices=("cpu", "cuda"), help="where it will run"
    )
    return parser


def optimize(args: argparse.Namespace) -> None:
    """Optimize and say what came out."""
    from espnet_onnx_plugin.bundle import read_bundle
    from espnet_onnx_plugin.optimize.fuse import optimize
    from espnet_onnx_plugin.runtime.core.device import Device
    from espnet_onnx_plugin.tasks import task_of

    model = read_bundle(args.model_dir)
    task = task_of(model)
    evaluator = make_evaluator(args, task, COMPARED)
    bundle = optimize(
        model, args.output_dir, args.provider, evaluator, Device(), args.force
    )
    figures = bundle.manifest.checks["optimize"]
    nodes = figures["nodes"].values()
    print(
        f"{bundle.path}: {sum(n['before'] for n in nodes)} -> "
        f"{sum(n['after'] for n in nodes)} nodes, same {task.gives} on "
        f"{figures['identical']} of {figures['utterances']} utterances "
        f"({figures['audio']} input)"
    )


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), optimize, cmd)


if __name__ == "__main__":
    main()
