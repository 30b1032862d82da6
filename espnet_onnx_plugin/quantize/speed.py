"""Which of two graphs runs faster here."""

import time
from pathlib import Path
from statistics import median
from typing import List, Mapping

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.runtime.device import Device
from espnet_onnx_plugin.runtime.session import session_options

#: Runs of each graph, after one for warming up.
TURNS = 5


def open_session(path: Path) -> ort.InferenceSession:
    """A graph outside of a bundle, on the CPU."""
    return ort.InferenceSession(
        str(path), session_options(Device()), providers=["CPUExecutionProvider"]
    )


def is_faster(path: Path, other: Path, feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether a graph runs faster than another one, on the same inputs.

    They take turns, so that what else the machine does meets both.
    """
    sessions = [open_session(path), open_session(other)]
    seconds: List[List[float]] = []
    for _ in range(1 + TURNS):
        seconds.append([])
        for session in sessions:
            known = {entry.name for entry in session.get_inputs()}
            start = time.perf_counter()
            session.run(None, {k: v for k, v in feeds.items() if k in known})
            seconds[-1].append(time.perf_counter() - start)
    return median(ours / theirs for ours, theirs in seconds[1:]) < 1
