"""Check a bundle: its files, and where torch and ESPnet are, its parity."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import ArgumentParser, add_trust
from espnet_onnx_plugin.errors import PluginError


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(prog="verify", description="Check a bundle")
    parser.add_argument("--model_dir", type=Path, required=True, help="the bundle")
    parser.add_argument("--train_config", type=Path, help="config.yaml of the model")
    parser.add_argument("--model_file", type=Path, help="checkpoint of the model")
    parser.add_argument("--lm_train_config", type=Path, help="config.yaml of the LM")
    parser.add_argument("--lm_file", type=Path, help="checkpoint of the LM")
    parser.add_argument("--src_lm_train_config", type=Path, help="likewise, source LM")
    parser.add_argument("--src_lm_file", type=Path, help="likewise, source LM")
    parser.add_argument("--vocoder_config", type=Path, help="of a voice's vocoder")
    parser.add_argument("--vocoder_file", type=Path, help="its checkpoint")
    add_trust(parser)
    parser.add_argument("--parity_scp", help="SCP,TYPE of real audio to check on")
    return parser


def verify(args: argparse.Namespace) -> None:
    """Check the files, load every graph, and compare with PyTorch if asked to."""
    from espnet_onnx_plugin.bundle import read_bundle
    from espnet_onnx_plugin.runtime.core.device import Device
    from espnet_onnx_plugin.runtime.core.session import Session

    bundle, device = read_bundle(args.model_dir), Device()
    for role in bundle.manifest.graphs:
        Session(bundle, role, device)
    report = "files and graphs are whole"
    if (args.train_config is None) != (args.model_file is None):
        raise PluginError("--train_config and --model_file go together")
    if args.train_config is not None:
        from espnet_onnx_plugin.export.checkpoint_file import trusting
        from espnet_onnx_plugin.export.checkpoints import Checkpoints
        from espnet_onnx_plugin.export.export import check_parity
        from espnet_onnx_plugin.export.tasks.exporter import find_exporter
        from espnet_onnx_plugin.runtime.io.data import Source

        checkpoints = Checkpoints(
            args.train_config,
            args.model_file,
            args.lm_train_config,
            args.lm_file,
            src_lm_train_config=args.src_lm_train_config,
            src_lm_file=args.src_lm_file,
            vocoder_config=args.vocoder_config,
            vocoder_file=args.vocoder_file,
        )
        source = Source.parse(args.parity_scp) if args.parity_scp else None
        with trusting(args.trust_checkpoint):
            model = find_exporter(bundle.manifest.task)(checkpoints)
        figures, skipped = check_parity(bundle, model, device, source)
        worst = max(figures, key=figures.__getitem__)
        report += f"; largest difference from PyTorch {figures[worst]:.1e} ({worst})"
        if skipped:
            report += f", {len(skipped)} cases skipped: {'; '.join(skipped)}"
    print(f"{bundle.path}: {report}")


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), verify, cmd)


if __name__ == "__main__":
    main()
