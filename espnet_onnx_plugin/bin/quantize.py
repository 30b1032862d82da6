"""Quantize the graphs of a bundle."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Sequence
from typing import Any

from espnet_onnx_plugin.bin._common import add_derive_options, make_evaluator, run
from espnet_onnx_plugin.bin._parser import ArgumentParser, add_options, values_of
from espnet_onnx_plugin.evaluate.budgets import BUDGETS
from espnet_onnx_plugin.evaluate.data_options import SCORED
from espnet_onnx_plugin.runtime.core.device import PROVIDERS


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(
        prog="quantize",
        description="Write a bundle in lower precision, within a quality budget",
    )
    add_derive_options(parser, SCORED)
    parser.add_argument(
        "--precision",
        default="int8",
        choices=("int8", "weight8", "weight4", "fp16", "bf16"),
        help="int8: products and large convolutions in integers; weight8, weight4: "
        "products with weights in blocks of 8 or 4 bits; fp16: for cuda; bf16: "
        "likewise, with the range of fp32 and 3 bits less",
    )
    parser.add_argument(
        "--provider",
        default="cpu",
        choices=tuple(PROVIDERS),
        help="where the budget is measured; fp16 and bf16 are emulated on the cpu",
    )
    parser.add_argument(
        "--inference",
        help="command whose search the budget is measured on; default: the one that "
        "decodes whole utterances",
    )
    parser.add_argument(
        "--inference_config",
        help="decoding options of the recipe, as the task's inference takes them; "
        "default: a search of beam 5 that uses every model of the bundle",
    )
    parser.add_argument(
        "--inference_args",
        default="",
        help="more of them in one string, e.g. '--lm_weight 0.3'; they win",
    )
    for budget in BUDGETS:
        group = parser.add_argument_group(budget.title) if budget.title else parser
        add_options(group, budget)
    return parser


def search_options(
    command: str, config: str | None, args: str
) -> dict[str, Any] | None:
    """Decoding options as a command reads them, None where none are given."""
    given = [*(["--config", config] if config else []), *shlex.split(args)]
    if not given:
        return None
    required = ["--model_dir", "", "--output_dir", ""]
    required += ["--data_path_and_name_and_type", "scp,speech,sound"]
    module = importlib.import_module(f"espnet_onnx_plugin.bin.{command}")
    parsed = module.COMMAND.get_parser().parse_args(required + given)
    return values_of(parsed, module.COMMAND.options)


def quantize(args: argparse.Namespace) -> None:
    """Quantize and say what came out."""
    from espnet_onnx_plugin.bundle import read_bundle
    from espnet_onnx_plugin.quantize.quantize import quantize
    from espnet_onnx_plugin.runtime.core.device import Device
    from espnet_onnx_plugin.tasks import door_called, door_of, task_of

    model = read_bundle(args.model_dir)
    command = args.inference or door_of(model).command
    door_called(command)  # or it is refused
    options = search_options(command, args.inference_config, args.inference_args)
    if options is not None and args.inference is not None:
        options["command"] = command
    task = task_of(model)
    evaluator = make_evaluator(args, task, SCORED, options)
    budget = evaluator.budget_class(**values_of(args, evaluator.budget_class))
    bundle = quantize(
        model,
        args.output_dir,
        args.precision,
        evaluator,
        budget,
        Device(args.provider),
        args.force,
    )
    figures = bundle.manifest.checks["quantize"]
    speed = "emulated on the CPU, no speed measured"
    if "speed_ratio" in figures:
        speed = f"{figures['speed_ratio']:.2f} x the speed"
    print(
        f"{bundle.path}: {model.size / 2**20:.1f} -> {bundle.size / 2**20:.1f} MiB, "
        f"{speed}, "
        f"{sum(map(len, figures['kept'].values()))} layers kept in higher precision, "
        f"same {task.gives} on {figures['identical']} of {figures['utterances']} "
        f"utterances ({figures['audio']} input)"
    )


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), quantize, cmd)


if __name__ == "__main__":
    main()
