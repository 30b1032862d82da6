"""Quantize the graphs of a bundle."""

import argparse
from typing import Optional, Sequence

from espnet_onnx_plugin.bin._common import (
    ArgumentParser,
    add_derive_options,
    calibration_source,
    run,
)


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(
        prog="quantize", description="Quantize the graphs of a bundle to int8"
    )
    add_derive_options(parser)
    return parser


def quantize(args: argparse.Namespace) -> None:
    """Quantize and say what came out."""
    from espnet_onnx_plugin.bundle import read_bundle
    from espnet_onnx_plugin.quantize.dynamic import quantize

    model = read_bundle(args.model_dir)
    bundle = quantize(model, args.output_dir, calibration_source(args))
    figures = bundle.manifest.checks["quantize"]
    print(
        f"{bundle.path}: {model.size / 2**20:.1f} -> {bundle.size / 2**20:.1f} MiB, "
        f"same tokens on {figures['identical']} of {figures['utterances']} utterances "
        f"({figures['audio']} audio)"
    )


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Entry point."""
    run(get_parser(), quantize, cmd)


if __name__ == "__main__":
    main()
