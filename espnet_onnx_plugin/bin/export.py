"""Export a trained ESPnet model to a bundle."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import (
    ArgumentParser,
    add_force,
    add_trust,
    add_wait,
    at_least_one,
    str_or_none,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.tasks import TASKS


def path_or_none(value: str) -> Path | None:
    """A path; ``none`` is None, as in ESPnet's recipes."""
    name = str_or_none(value)
    return None if name is None else Path(name)


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(
        prog="export", description="Export a trained ESPnet model to an ONNX bundle"
    )
    parser.add_argument("--task", default="asr", choices=tuple(TASKS))
    parser.add_argument("--output_dir", type=Path, required=True, help="the bundle")
    add_force(parser)
    add_wait(parser)
    group = parser.add_argument_group("Model: files, or a tag or zip")
    group.add_argument("--train_config", type=Path, help="config.yaml of the model")
    group.add_argument("--model_file", type=Path, help="checkpoint of the model")
    group.add_argument("--lm_train_config", type=Path, help="config.yaml of the LM")
    group.add_argument("--lm_file", type=Path, help="checkpoint of the LM")
    group.add_argument("--ngram_file", type=Path, help="KenLM model")
    src = "of the source language, for a translation model that recognizes first"
    group.add_argument("--src_lm_train_config", type=Path, help=f"as above, {src}")
    group.add_argument("--src_lm_file", type=Path, help=f"as above, {src}")
    group.add_argument("--src_ngram_file", type=Path, help=f"as above, {src}")
    group.add_argument(
        "--model_tag", help="tag of espnet_model_zoo, or a zip that ESPnet packed"
    )
    add_trust(group)
    group = parser.add_argument_group("The vocoder of a text-to-speech model")
    group.add_argument(
        "--vocoder_file",
        type=path_or_none,
        help="checkpoint of parallel_wavegan (.pkl); without one, Griffin-Lim",
    )
    group.add_argument(
        "--vocoder_config",
        type=path_or_none,
        help="its configuration, if it is not config.yml beside it; or settings of "
        "Griffin-Lim",
    )
    group.add_argument(
        "--vocoder_tag", type=str_or_none, help="tag of parallel_wavegan"
    )
    group = parser.add_argument_group("An enhancement model")
    group.add_argument(
        "--inference_enh_config",
        type=path_or_none,
        help="settings in the place of the model's: --inference_config of ESPnet's "
        "enh_inference",
    )
    parser.add_argument(
        "--parity_scp",
        help="SCP,TYPE of real audio to check on, e.g. dump/raw/dev/wav.scp,sound",
    )
    parser.add_argument(
        "--parity_utterances",
        type=at_least_one,
        default=5,
        help="how many of them to check on",
    )
    return parser


def export(args: argparse.Namespace) -> None:
    """Export and say what was written."""
    names = ["train_config", "model_file", "lm_train_config", "lm_file"]
    names += ["src_lm_train_config", "src_lm_file"]
    files = {name: getattr(args, name) for name in names}
    if args.model_tag is not None and any(files.values()):
        raise PluginError("--model_tag and files of a model exclude each other")
    vocoder_files = ("vocoder_config", "vocoder_file")
    others = ("ngram_file", "src_ngram_file", *vocoder_files, "inference_enh_config")
    more = {name: getattr(args, name) for name in others}
    if args.inference_enh_config and not TASKS[args.task].overwritten:
        known = " or ".join(task.name for task in TASKS.values() if task.overwritten)
        raise PluginError(
            f"--inference_enh_config is for task {known}, not {args.task}"
        )
    vocoder = [name for name in ("vocoder_tag", *vocoder_files) if getattr(args, name)]
    if vocoder and not TASKS[args.task].vocoder:
        known = " or ".join(task.name for task in TASKS.values() if task.vocoder)
        raise PluginError(f"--{vocoder[0]} is for task {known}, not {args.task}")
    if args.vocoder_tag and len(vocoder) > 1:
        raise PluginError("--vocoder_tag and files of a vocoder exclude each other")
    if args.model_tag is None and not (args.train_config and args.model_file):
        raise PluginError("give --train_config and --model_file, or --model_tag")

    from espnet_onnx_plugin.export.checkpoint_file import trusting
    from espnet_onnx_plugin.export.checkpoints import Checkpoints
    from espnet_onnx_plugin.export.export import export_bundle
    from espnet_onnx_plugin.export.model_zoo import from_tag, vocoder_from_tag
    from espnet_onnx_plugin.files import held
    from espnet_onnx_plugin.runtime.core.device import Device
    from espnet_onnx_plugin.runtime.io.data import Source

    if args.vocoder_tag:
        more.update(vocoder_from_tag(args.vocoder_tag))
    parity, device = None, Device()
    if args.parity_scp:
        parity = Source.parse(args.parity_scp, args.parity_utterances)
    with contextlib.ExitStack() as stack:
        stack.enter_context(trusting(args.trust_checkpoint))
        if args.model_tag is not None:
            stack.enter_context(held(args.output_dir))  # it is unpacked beside that
            tagged = from_tag(args.task, args.model_tag, **more)
            checkpoints = stack.enter_context(tagged)
        else:
            checkpoints = Checkpoints(**files, **more)
        bundle = export_bundle(
            args.task, checkpoints, args.output_dir, parity, device, args.force
        )
    worst = max(bundle.manifest.checks["parity"].values())
    print(
        f"{bundle.path}: {', '.join(bundle.manifest.graphs)}, "
        f"{bundle.size / 2**20:.1f} MiB, largest difference from PyTorch {worst:.1e}"
    )


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), export, cmd)


if __name__ == "__main__":
    main()
