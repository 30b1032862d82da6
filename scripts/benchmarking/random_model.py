"""Write an ASR model and LM with random weights, as ESPnet's training leaves them.

Run as ``python -m benchmarking.random_model SPEC OUTPUT_DIR``, SPEC being a JSON of
RandomModel: the driver itself imports no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.errors import PluginError


def write_model(task: Any, sizes: dict, common: dict, seed: int, output: Path) -> None:
    """Write ``output``.yaml and .pth."""
    config = dict(task.get_default_config())
    for key in sizes:
        if key not in config:
            raise PluginError(f"'{key}' is no option of ESPnet's {task.__name__}")
    config.update(sizes, **common)
    torch.manual_seed(seed)
    model = task.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), output.with_suffix(".pth"))
    text = yaml.safe_dump(config)
    output.with_suffix(".yaml").write_text(text, encoding="utf-8")


def write_models(args: argparse.Namespace) -> None:
    """Write all files of the model."""
    spec = json.loads(args.spec)
    words = [f"t{i}" for i in range(spec["tokens"] - 3)]
    tokens = ["<blank>", "<unk>", *words, "<sos/eos>"]
    common = dict(token_list=tokens, token_type="word", init=None)
    for name, task in {"asr": ASRTask, "lm": LMTask}.items():
        if spec[name] is not None:
            output = args.output_dir / name
            write_model(task, spec[name], common, spec["seed"], output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="random_model")
    parser.add_argument("spec")
    parser.add_argument("output_dir", type=Path)
    parser.set_defaults(log_level="INFO")
    run(parser, write_models, sys.argv[1:])
