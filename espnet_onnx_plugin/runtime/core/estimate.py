"""Memory that a graph needs for a long input, told by runs of it on short ones.

How the tensors between a graph's nodes grow with its input, with the length or with the
square of it, is known only to onnxruntime, which tells the sizes of a run's tensors in
its profile. An input so long that memory may matter is preceded by runs on its first
seconds, once in the life of a session.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Axis, Graph, Tensor
from espnet_onnx_plugin.files import temporary_directory

logger = logging.getLogger(__name__)

#: Bytes of an input from which on what it needs is worked out: some 65 s of a waveform,
#: or 130 s of 80 features a frame. Work on as much takes longer than the short runs.
LONG = 2**22

#: Sizes of the axis that is long: four steps of this size. Multiples of what models
#: divide lengths by, so that nothing is rounded in most; in samples, and in frames.
STEPS = {"samples": 19200}
STEP = 240
RUNS = 4

#: Axes along which a graph does the same work several times.
TIMES = frozenset({"utterances", "channels", "speakers", "rows", "streams"})

#: Kernels of onnxruntime that never write into their inputs, so that those and the
#: outputs are there at the same time.
APART = frozenset(
    "Concat Conv Expand FusedConv FusedGemm FusedMatMul Gather Gemm LSTM MatMul Pad "
    "Slice Split Tile Transpose Where".split()
)

#: The attribute of fused attention in a graph's file: an AttributeProto with its name,
#: field 1, and its integer, field 3, which one byte holds.
_HEADS = re.compile(rb"\x0a\x09num_heads\x18([\x01-\x7f])")

#: Opens a session that writes its profile to a file of this prefix.
Open = Callable[[Path], "ort.InferenceSession"]


class Growth(NamedTuple):
    """Bytes of a node's tensors by the length: Newton's forward differences.

    Attributes:
        first, slope, bend: at the first of the lengths, from there to the second, and
            how much more each step adds than the one before it.
    """

    first: float
    slope: float
    bend: float

    @classmethod
    def of(cls, bytes_at: list[int]) -> Growth:
        """Growth of the sizes at lengths in equal steps.

        Rounded lengths make steps unlike each other by one row, but never three of
        them one larger than the other: those are of a square.
        """
        slopes = np.diff(bytes_at)
        bends = np.diff(slopes)
        bend = float(bends.min())
        square = bend > 0 and np.ptp(bends) <= bend
        return cls(bytes_at[0], float(slopes.min()), bend if square else 0.0)

    def at(self, steps: float) -> float:
        """Bytes so many steps after the first length."""
        return self.first + steps * self.slope + steps * (steps - 1) / 2 * self.bend


def _bytes(tensor: Tensor, sizes: Mapping[Axis, int]) -> int:
    shape = [int(sizes.get(axis, axis)) for axis in tensor.axes]
    return math.prod(shape) * np.dtype(tensor.dtype).itemsize


class Estimate:
    """The least memory that a run of a graph needs.

    Args:
        graph: its description.
        path: its file.
        open_profiled: opens it once more.
    """

    def __init__(self, graph: Graph, path: Path, open_profiled: Open):
        free = {a for t in graph.inputs.values() for a in t.axes if isinstance(a, str)}
        lengths = free - TIMES
        #: The axis that may be long; None: the graph reads several, or keeps states.
        self.axis: str | None = None
        if len(lengths) == 1 and not graph.states:
            [self.axis] = lengths
        self._step = STEPS.get(self.axis or "", STEP)
        self._inputs = graph.inputs
        self._path = path
        self._open = open_profiled
        self._growths: list[Growth] | None = None

    def bytes(
        self, sizes: Mapping[Axis, int], feeds: Callable[[], Mapping[str, np.ndarray]]
    ) -> int:
        """Bytes that a run needs at least besides what is there before it.

        Args:
            sizes: of the free axes of its inputs.
            feeds: gives the inputs by name.

        Returns:
            0 for an input that is short, or where nothing is known.
        """
        if self.axis is None or sizes[self.axis] <= RUNS * self._step:
            return 0
        if sum(_bytes(tensor, sizes) for tensor in self._inputs.values()) < LONG:
            return 0
        if self._growths is None:
            self._growths = self._grown(feeds())
        steps = sizes[self.axis] / self._step - 1
        most = max((growth.at(steps) for growth in self._growths), default=0.0)
        return int(most * sizes.get("utterances", 1))

    def _grown(self, feeds: Mapping[str, np.ndarray]) -> list[Growth]:
        """How the tensors of every node grow."""
        nodes: defaultdict[str, list[int]] = defaultdict(list)
        heads = [found[0] for found in _HEADS.findall(self._path.read_bytes())]
        try:
            for run in range(1, RUNS + 1):
                events = self._profile(self._cut(feeds, run * self._step))
                for name, size in _sizes(events, min(heads, default=1)).items():
                    nodes[name].append(size)
        except Exception:  # onnxruntime's exceptions have no common base
            logger.debug("no estimate of the memory that is needed", exc_info=True)
            return []
        # One of a branch that not every length takes tells nothing of long ones.
        return [Growth.of(sizes) for sizes in nodes.values() if len(sizes) == RUNS]

    def _cut(
        self, feeds: Mapping[str, np.ndarray], length: int
    ) -> dict[str, np.ndarray]:
        """The first utterance's beginning."""
        cut = {}
        for name, tensor in self._inputs.items():
            value = feeds[name]
            for i, axis in enumerate(tensor.axes):
                if axis in ("utterances", self.axis):
                    size = 1 if axis == "utterances" else length
                    value = value.take(np.arange(size), axis=i)
            if tensor.axes in ((), (1,), ("utterances",)) and value.dtype == np.int64:
                value = np.minimum(value, length)  # it tells the length
            cut[name] = np.asarray(value)
        return cut

    def _profile(self, feeds: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """The events of a run."""
        with temporary_directory() as work:
            session = self._open(work / "profile")
            given = {i.name for i in session.get_inputs()}
            session.run(None, {k: v for k, v in feeds.items() if k in given})
            content: list[dict[str, Any]] = json.loads(
                Path(session.end_profiling()).read_bytes()
            )
        return content


def _sizes(events: list[dict[str, Any]], heads: int) -> dict[str, int]:
    """Bytes of each node's tensors that are there together, by its name.

    Args:
        events: of a profile.
        heads: of fused attention.
    """
    nodes: dict[str, int] = {}
    for event in events:
        args, name = event.get("args", {}), event["name"]
        if "output_size" not in args:
            continue
        read, written = int(args["activation_size"]), int(args["output_size"])
        size = read + written if args["op_name"] in APART else max(read, written)
        if args["op_name"] == "MultiHeadAttention":
            size += heads * _scores(args["input_type_shape"])
        nodes[name] = max(size, nodes.get(name, 0))  # of several, in a loop
    return nodes


def _scores(inputs: list[dict[str, list[int]]]) -> int:
    """Bytes that fused attention takes for the scores of one head.

    Args:
        inputs: type and shape of queries and keys (batch, length, size), and of others.
    """
    queries, keys, *others = [shape for typed in inputs for shape in typed.values()]
    # Without a mask or biases of positions they are never there as a whole.
    if all(len(shape) == 1 for shape in others[1:]):
        return 0
    return queries[0] * queries[1] * keys[1] * np.dtype(np.float32).itemsize
