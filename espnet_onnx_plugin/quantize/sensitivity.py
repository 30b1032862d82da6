"""How much each layer's precision costs, measured without any search."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.files import temporary_directory
from espnet_onnx_plugin.quantize.forms import FP32, SWITCHES, Lowering
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

logger = logging.getLogger(__name__)

#: Most seconds for one graph in one form, and most inputs of it.
MAX_SECONDS = 120.0
MAX_FEEDS = 8


class Raise(NamedTuple):
    """A layer's step to its next form."""

    role: str
    layer: str
    form: str
    gain: float


def rank(
    lowerings: Mapping[str, Lowering],
    outputs: Mapping[str, Sequence[str]],
    feeds: Mapping[str, Sequence[Feeds]],
    device: Device,
) -> list[Raise]:
    """All steps from the lowest precision to fp32, those that gain most first.

    A layer's cost in a form is the relative error (root mean square) that its graph's
    outputs have where only that layer takes the form, the rest being fp32; the gain of
    a step is the difference between two forms' costs.

    Args:
        lowerings: the graphs, by role.
        outputs: of each graph, those on which the error is measured.
        feeds: inputs of each graph.
        device: where they run.
    """
    raises = []
    for role, lowering in lowerings.items():
        costs = _costs(role, lowering, outputs[role], feeds.get(role, ()), device)
        for layer, forms in lowering.ladders.items():
            known = [costs[form][layer.name] for form in forms[:-1]] + [0.0]
            raises += [
                Raise(role, layer.name, form, known[i] - known[i + 1])
                for i, form in enumerate(forms[1:])
            ]
    return sorted(raises, key=lambda step: -step.gain)


def _costs(
    role: str,
    lowering: Lowering,
    outputs: Sequence[str],
    feeds: Sequence[Feeds],
    device: Device,
) -> dict[str, dict[str, float]]:
    """By form and layer's name."""
    forms = {form for ladder in lowering.ladders.values() for form in ladder}
    if not feeds:  # a model that this search does not use
        return {f: {layer.name: 0.0 for layer in lowering.ladders} for f in forms}
    costs: dict[str, dict[str, float]] = {}
    for form in sorted(forms - {FP32}):
        with temporary_directory() as work:
            path = work / f"{role}.onnx"
            layers = lowering.write_probe(form, path)
            session = open_graph(path, device)
        known = {entry.name for entry in session.get_inputs()}
        start = time.monotonic()
        total = np.zeros(len(layers))
        # Late steps too: the first inputs of a decoder have no history.
        stride = max(1, len(feeds) // MAX_FEEDS)
        for i, feed in enumerate(feeds[::-stride][:MAX_FEEDS]):
            feed = {name: value for name, value in feed.items() if name in known}
            off = np.zeros(len(layers), bool)
            expected = session.run(list(outputs), {**feed, SWITCHES: off})
            for j, switches in enumerate(np.eye(len(layers), dtype=bool)):
                ours = session.run(list(outputs), {**feed, SWITCHES: switches})
                total[j] += max(map(_error, ours, expected))
            passed = time.monotonic() - start
            if passed * (i + 2) / (i + 1) > MAX_SECONDS:
                break
        logger.info("%s: cost of %s measured on %d layers", role, form, len(layers))
        costs[form] = {layer.name: t for layer, t in zip(layers, total / (i + 1))}
    return costs


def _error(ours: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, relative to the expected values'."""
    if expected.dtype != np.float32 or expected.size == 0:
        return 0.0
    scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    error = np.sqrt(np.mean(np.square(ours - expected, dtype=np.float64)))
    return float(error / max(scale, 1e-20)) if np.isfinite(error) else float("inf")
