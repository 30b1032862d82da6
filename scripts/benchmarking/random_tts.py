"""Weights of models of task tts, of which random ones say nothing that can be timed."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarking.config import FRAMES_PER_TOKEN

#: Length of the text whose activations the weights are scaled to.
LENGTH = 20


def write_vocoder(
    conf: Mapping[str, Any], model: torch.nn.Module, tokens: int, path: Path
) -> None:
    """Write a HiFi-GAN as parallel_wavegan does: a checkpoint with its config.yml.

    Args:
        conf: Of ESPnet's generator, which has the parameters of parallel_wavegan's.
        model: What makes the features that it reads.
        tokens: Size of its vocabulary.
        path: Of the checkpoint.
    """
    from espnet2.gan_tts.hifigan import HiFiGANGenerator

    generator = HiFiGANGenerator(**conf).eval()
    with torch.no_grad(), _unit_variance(generator):
        generator.inference(_synthesize(model, tokens)["feat_gen"])
    torch.save({"model": {"generator": generator.state_dict()}}, path)
    config = {
        "sampling_rate": model.feats_extract.get_parameters()["fs"],
        "generator_type": type(generator).__name__,
        "generator_params": dict(conf),
        "format": "npy",
    }
    path.with_name("config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")


@torch.no_grad()
def give_speech(model: torch.nn.Module, tokens: int) -> None:
    """Change fresh weights of a model so that it makes speech.

    Tokens last FRAMES_PER_TOKEN frames on average, and the activations of a
    vocoder that is part of the model neither vanish nor grow.

    Args:
        model: ESPnet's model.
        tokens: Size of its vocabulary.
    """
    model.eval()
    for parameter in model.parameters():
        # Flows begin as the identity.
        if parameter.dim() > 1 and not parameter.any():
            parameter.normal_(0.0, 0.01)
    for module in model.tts.modules():
        kind = type(module).__name__
        if kind == "StochasticDurationPredictor":  # rounded up
            last = module.flows[0]
            last.logs.fill_(1.0)
            last.m.fill_(-math.e * math.log(FRAMES_PER_TOKEN - 0.5))
        elif kind == "DurationPredictor":
            module.linear.weight.mul_(0.1)
            module.linear.bias.fill_(math.log(FRAMES_PER_TOKEN + module.offset))
    for module in model.tts.modules():
        if type(module).__name__ == "HiFiGANGenerator":
            with _unit_variance(module):
                _synthesize(model, tokens)


def _synthesize(model: torch.nn.Module, tokens: int) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {"use_teacher_forcing": False}
    if "maxlenratio" in inspect.signature(model.tts.inference).parameters:
        ratio = float(FRAMES_PER_TOKEN)
        options.update(minlenratio=ratio, maxlenratio=ratio)
    return model.inference(text=torch.randint(1, tokens - 1, (LENGTH,)), **options)


@contextlib.contextmanager
def _unit_variance(generator: torch.nn.Module) -> Iterator[None]:
    """Scale each convolution when it runs, so that its outputs have mean 0, variance 1.

    Data-dependent initialization, Salimans and Kingma (arXiv:1602.07868), section 3.
    """

    def scale(layer: torch.nn.Module, _: Any, outputs: torch.Tensor) -> torch.Tensor:
        centred = outputs - outputs.mean(dim=-1, keepdim=True)
        deviation = centred.std()
        gain = layer.weight_g if hasattr(layer, "weight_g") else layer.weight
        gain.data.div_(deviation)
        layer.bias.data.sub_(outputs.mean(dim=(0, 2))).div_(deviation)
        return centred / deviation

    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    layers = [layer for layer in generator.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
