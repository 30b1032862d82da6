"""Write a model and an LM with random weights, as ESPnet's training leaves them.

Run as ``python -m benchmarking.random_model SPEC OUTPUT_DIR``, SPEC being a JSON of
RandomModel: the driver itself imports no torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarking import random_stream, random_transducer, random_tts

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import losses_left_out

# What OWSM's vocabularies hold besides words, with the symbols of ESPnet's defaults.
S2T_SYMBOLS = ("<na>", "<eng>", "<asr>", "<notimestamps>")
S2T_ENDS = ("<sop>", "<sos>", "<eos>")
S2T_TIMES = tuple(f"<{n * 0.02:.2f}>" for n in range(1501))  # to 30 s

# ESPnet's tasks that are not called TASKTask, in tasks.TASK.
CLASSES = {"enh": "EnhancementTask", "svs": "GANSVSTask"}
MODULES = {"svs": "gan_svs"}


def vocabulary(task: str, size: int) -> list[str]:
    """Return a token list as the task's models have it."""
    first, last = ("<blank>", "<unk>"), ("<sos/eos>",)
    if task == "s2t":
        first, last = (*first, *S2T_SYMBOLS, *S2T_TIMES), S2T_ENDS
    words = size - len(first) - len(last)
    if words < 1:
        raise PluginError(f"{size} tokens are too few for a model of task {task}")
    return [*first, *(f"t{i}" for i in range(words)), *last]


@torch.no_grad()
def sharpen(model: torch.nn.Module, factor: float) -> None:
    """Scale what decoder and CTC give before the softmax; most do not end at once."""
    output = model.decoder.output_layer
    output.weight.mul_(factor)
    output.bias[model.eos] -= factor / 2
    model.ctc.ctc_lo.weight.mul_(factor)


def write_model(
    task: Any, sizes: dict, common: dict, seed: int, output: Path, sharpness: float = 1
) -> torch.nn.Module:
    """Write ``output``.yaml and .pth."""
    config = dict(task.get_default_config())
    for key in sizes:
        if key not in config:
            raise PluginError(f"'{key}' is no option of ESPnet's {task.__name__}")
    config.update(sizes, **common)
    torch.manual_seed(seed)
    with losses_left_out():
        model = task.build_model(argparse.Namespace(**config))
    if hasattr(model, "tts"):
        random_tts.give_speech(model, len(common["token_list"]))
    if getattr(model, "joint_network", None) is not None:
        random_transducer.give_labels(model)
    elif hasattr(getattr(model, "encoder", None), "forward_infer"):
        random_stream.give_words(model)
    elif sharpness != 1:
        sharpen(model, sharpness)
    torch.save(model.state_dict(), output.with_suffix(".pth"))
    text = yaml.safe_dump(config)
    output.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return model


def write_models(args: argparse.Namespace) -> None:
    """Write all files of the model."""
    spec = json.loads(args.spec)
    task, seed = spec["task"], spec["seed"]
    tokens = vocabulary(task, spec["tokens"])
    common = dict(token_list=tokens, token_type="word", init=None)
    if task == "enh":
        common = dict(init=None)
    if task == "svs":
        common.update(token_type="phn", g2p=None, cleaner=None)
    # The language of the speech has a vocabulary of the same size.
    src = dict(src_token_list=tokens, src_token_type="word") if task == "st" else {}
    for name, of, sizes, more, sharpness in (
        ("model", task, spec["train_config"], src, spec["sharpness"]),
        ("lm", "lm", spec["lm_train_config"], {}, 1),
    ):
        if sizes is not None:
            module = importlib.import_module(f"espnet2.tasks.{MODULES.get(of, of)}")
            cls = getattr(module, CLASSES.get(of, f"{of.upper()}Task"))
            output = args.output_dir / name
            model = write_model(cls, sizes, {**common, **more}, seed, output, sharpness)
    if spec["vocoder_config"] is not None:
        path = args.output_dir / "vocoder.pkl"
        conf = spec["vocoder_config"]
        random_tts.write_vocoder(conf, model, len(tokens), path)


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="random_model")
    parser.add_argument("spec")
    parser.add_argument("output_dir", type=Path)
    parser.set_defaults(log_level="INFO")
    run(parser, write_models, cmd)


if __name__ == "__main__":
    main()
