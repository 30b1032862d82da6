"""A worker's systems of asr, and of the other tasks with ESPnet's beam search."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from benchmarking.settings import Decode
from benchmarking.stopwatch import Stopwatch

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.tasks import Door, find, open_model

# Whose model ESPnet's class has, where it is not the task's.
MODELS = {"slu": "asr"}

# From an utterance to results and seconds by part.
Decoder = Callable[[np.ndarray], "tuple[list[Any], dict[str, float]]"]


def on_device(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a bundle runs, as its class takes it."""
    given = {name: spec[name] for name in ("provider", "session") if name in spec}
    return {"threads": spec["threads"], **given}


def open_bundle(spec: dict[str, Any]) -> Decoder:
    """Open a bundle; neither torch, nor ESPnet, nor onnx."""
    bundle = read_bundle(spec["model"])
    speech2text = open_model(bundle, **on_device(spec), **spec["options"])

    def decode(speech: np.ndarray) -> tuple[list[Any], dict[str, float]]:
        return speech2text(speech), speech2text.timing._asdict()

    return decode


def open_pytorch(spec: dict[str, Any]) -> Decoder:
    """Load ESPnet's own inference."""
    speech2text, watch = load_pytorch(spec, find(spec["task"]).door)

    def decode(speech: np.ndarray) -> tuple[list[Any], dict[str, float]]:
        watch.seconds.clear()
        return speech2text(speech), dict(watch.seconds)

    return decode


def torch_device(spec: Mapping[str, Any]) -> str:
    """Return torch's name of where PyTorch runs, which is told its threads."""
    import torch

    torch.set_num_threads(spec["threads"])
    return "cpu" if spec.get("provider", "cpu") == "cpu" else "cuda"


def load_pytorch(spec: dict[str, Any], door: Door) -> tuple[Any, Stopwatch]:
    """Load ESPnet's class that a door stands for, and watch its parts.

    On a GPU those are the frontend and the encoder alone: to watch a part is to wait
    for it, and the parts of a search are many and short.
    """
    import torch

    from espnet_onnx_plugin.export.checkpoints import losses_left_out

    device = torch_device(spec)
    cls = getattr(importlib.import_module(f"espnet2.bin.{door.command}"), door.name)
    with losses_left_out():
        speech2text = cls(**spec["model"], **spec["options"], device=device)
    model = getattr(speech2text, f"{MODELS.get(spec['task'], spec['task'])}_model")
    watch = Stopwatch(None if device == "cpu" else torch.cuda.synchronize)
    watch.watch("frontend", model.frontend, "forward")
    # As the graphs of a bundle have it.
    for name in ("normalize", "preencoder", "encoder"):
        watch.watch("encoder", getattr(model, name), "forward")
    watch.watch("encoder", model.ctc, "log_softmax")
    if device != "cpu":
        return speech2text, watch
    transducer = getattr(speech2text, "beam_search_transducer", None)
    if transducer is not None:
        scorers = dict(decoder=model.decoder, lm=transducer.lm)
        watch.watch("decoder", model.joint_network, "forward")
    else:
        scorers = speech2text.beam_search.scorers
    for name in ("decoder", "lm"):
        watch.watch(name, scorers.get(name), "batch_score", "score")
    prefix = ("batch_init_state", "init_state", "batch_score_partial", "score_partial")
    prefix += ("select_state", "extend_prob", "extend_state")
    watch.watch("ctc", scorers.get("ctc"), *prefix)
    return speech2text, watch


def measure(decoder: Decoder, speech: np.ndarray) -> dict[str, Any]:
    """Decode one utterance and return the fields of a Decode."""
    start = time.perf_counter()
    results, seconds = decoder(speech)
    total = time.perf_counter() - start
    if isinstance(results, tuple):  # with the tokens of intermediate CTCs
        results = results[0]
    text, _, tokens, *_, hypothesis = results[0]
    parts = {name: seconds.get(name, 0.0) for name in Decode.PARTS[:-1]}
    return {
        "seconds": total,
        "parts": {**parts, "rest": total - sum(parts.values())},
        "tokens": list(tokens),
        "score": float(hypothesis.score),
        "text": text,
    }
