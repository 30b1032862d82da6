"""Speed of two graphs, and of two bundles, side by side on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

#: Runs of each graph, after one for warming up.
TURNS = 5

#: Utterances on which the speed of bundles is measured.
TIMED = 5

Model = TypeVar("Model")
Item = TypeVar("Item")

#: Seconds by part, by side.
Seconds = dict[str, dict[str, float]]


def is_faster(
    path: Path, other: Path, feeds: Mapping[str, np.ndarray], device: Device
) -> bool:
    """Whether a graph runs faster than another one, on the same inputs.

    They take turns, so that what else the machine does meets both.
    """
    sessions = [open_graph(graph, device) for graph in (path, other)]
    seconds: list[list[float]] = []
    for _ in range(1 + TURNS):
        seconds.append([])
        for session in sessions:
            known = {entry.name for entry in session.get_inputs()}
            start = time.perf_counter()
            session.run(None, {k: v for k, v in feeds.items() if k in known})
            seconds[-1].append(time.perf_counter() - start)
    return median(ours / theirs for ours, theirs in seconds[1:]) < 1


def time_in_turns(
    sides: Mapping[str, Model],
    utterances: Iterable[Item],
    run: Callable[[Model, Item], Mapping[str, float]],
) -> Seconds:
    """Measure how long each side takes for the first :data:`TIMED` utterances.

    They take turns, utterance by utterance, after one for warming up, so that what
    else the machine does meets both.

    Args:
        sides: models by name.
        utterances: inputs of a model.
        run: runs a model on an utterance and returns the seconds that it took, by part.
    """
    totals: dict[str, Counter[str]] = {side: Counter() for side in sides}
    for i, utterance in enumerate(islice(utterances, TIMED)):
        for side, model in sides.items():
            if i == 0:
                run(model, utterance)
            totals[side].update(run(model, utterance))
    return {
        side: {name: round(value, 4) for name, value in parts.items()}
        for side, parts in totals.items()
    }
