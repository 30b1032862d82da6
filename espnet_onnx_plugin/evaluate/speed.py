"""Which of two graphs runs faster here."""

import time
from pathlib import Path
from statistics import median
from typing import List, Mapping

import numpy as np

from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

#: Runs of each graph, after one for warming up.
TURNS = 5


def is_faster(
    path: Path, other: Path, feeds: Mapping[str, np.ndarray], device: Device
) -> bool:
    """Whether a graph runs faster than another one, on the same inputs.

    They take turns, so that what else the machine does meets both.
    """
    sessions = [open_graph(graph, device) for graph in (path, other)]
    seconds: List[List[float]] = []
    for _ in range(1 + TURNS):
        seconds.append([])
        for session in sessions:
            known = {entry.name for entry in session.get_inputs()}
            start = time.perf_counter()
            session.run(None, {k: v for k, v in feeds.items() if k in known})
            seconds[-1].append(time.perf_counter() - start)
    return median(ours / theirs for ours, theirs in seconds[1:]) < 1
