"""Work on values where they lie: arrays, or what stayed on the device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.graph_writer import GraphWriter
from espnet_onnx_plugin.runtime.core.runner import Runner, Value, run_options
from espnet_onnx_plugin.runtime.core.session import open_graph

#: Element types of numpy, as onnxruntime calls those of its values.
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def to_numpy(value: Value) -> np.ndarray:
    """A value as an array, wherever it lies."""
    return value if isinstance(value, np.ndarray) else value.numpy()


def open_written(
    graph: GraphWriter, memory: str, name: str, replays: bool = False
) -> Runner:
    """A graph that was written here, which leaves its outputs in a memory.

    TensorRT is not asked to build an engine for so little: CUDA runs it.
    """
    session = open_graph(graph.model(), Device(memory), "fp32", replays=replays)
    return Runner(session, memory, name)


@functools.lru_cache(maxsize=None)
def _copying(kind: str, memory: str) -> Runner:
    graph = GraphWriter()
    dtype = DTYPES[kind]
    graph.output("copied", graph.input("value", dtype), dtype)
    return open_written(graph, memory, "copy")


def copy(value: ort.OrtValue, address: int) -> ort.OrtValue:
    """A value of a device, copied to an address there."""
    kind, memory = value.data_type(), value.device_name()
    runner = _copying(kind, memory)
    binding = runner.binding({"value": value})
    binding.bind_output("copied", memory, 0, DTYPES[kind], value.shape(), address)
    try:
        runner.session.run_with_iobinding(binding, run_options())
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise runner.failure(e, {}) from e
    return binding.get_outputs()[0]


@functools.lru_cache(maxsize=None)
def _taking(kind: str, memory: str, cuts: bool) -> Runner:
    graph = GraphWriter()
    dtype = DTYPES[kind]
    taken = graph.Gather(graph.input("value", dtype), graph.input("ids", np.int64))
    if cuts:
        length = graph.input("length", np.int64)
        taken = graph.Slice(taken, [0], length, [1])
    graph.output("taken", taken, dtype)
    return open_written(graph, memory, "selection")


def take(value: Value, ids: Sequence[int], length: int | None = None) -> Value:
    """Rows of a value, and of each its first ones.

    Args:
        value: (rows, ...), or (rows, lengths, ...).
        ids: of the rows.
        length: how long they become; None: as they are.
    """
    ids = list(ids)
    if isinstance(value, np.ndarray):
        return value[ids] if length is None else value[ids, :length]
    feeds: dict[str, Value] = {"value": value, "ids": np.array(ids, np.int64)}
    if length is not None:
        feeds["length"] = np.array([length], np.int64)
    runner = _taking(value.data_type(), value.device_name(), length is not None)
    return runner.run(runner.binding(), feeds, ())["taken"]


@functools.lru_cache(maxsize=None)
def _finding(memory: str) -> Runner:
    graph = GraphWriter()
    _, places = graph.top(graph.input("value", np.float32), 1)
    graph.output("places", graph.Squeeze(places, [-1]), np.int64)
    return open_written(graph, memory, "maximum")


def argmax(value: Value) -> np.ndarray:
    """Where the largest of the last axis stands, the first of equal ones."""
    if isinstance(value, np.ndarray):
        return value.argmax(axis=-1)
    runner = _finding(value.device_name())
    places = runner.run(runner.binding(), {"value": value}, ("places",))["places"]
    return to_numpy(places)


def pad(arrays: Sequence[np.ndarray], length: int | None = None) -> np.ndarray:
    """Stack arrays (length, ...) of unequal lengths, zeros behind the shorter ones.

    Args:
        arrays: the arrays.
        length: of the result; default: that of the longest.
    """
    length = max(len(a) for a in arrays) if length is None else length
    batch = np.zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(batch, arrays):
        row[: len(array)] = array
    return batch


@functools.lru_cache(maxsize=None)
def _stacking(kind: str, memory: str, count: int, pads: bool) -> Runner:
    graph = GraphWriter()
    dtype = DTYPES[kind]
    values = [graph.input(f"value{i}", dtype) for i in range(count)]
    if pads:
        length = graph.input("length", np.int64)
        for i, value in enumerate(values):
            missing = graph.Sub(length, graph.Shape(value, start=1, end=2))
            ends = graph.Concat([0], missing, axis=0)
            values[i] = graph.Pad(value, ends, dtype(0), [1])
    graph.output("stacked", graph.Concat(*values, axis=0), dtype)
    return open_written(graph, memory, "stack")


def stack(values: Sequence[Value], length: int | None = None) -> Value:
    """Values (rows,) or (rows, length, ...) one below the other.

    Args:
        values: the values; behind the shorter ones come zeros.
        length: of the result, if it has one; default: that of the longest.
    """
    if len(values) == 1 and length is None:
        return values[0]
    on_device = [v for v in values if not isinstance(v, np.ndarray)]
    if len(on_device) < len(values):
        arrays = [to_numpy(value) for value in values]
        if arrays[0].ndim == 1:
            return np.concatenate(arrays)
        return pad([row for array in arrays for row in array], length)
    feeds: dict[str, Value] = {f"value{i}": v for i, v in enumerate(on_device)}
    shapes = [value.shape() for value in on_device]
    if len(shapes[0]) > 1:
        longest = max(shape[1] for shape in shapes)
        feeds["length"] = np.array([length or longest], np.int64)
    kind, memory = on_device[0].data_type(), on_device[0].device_name()
    runner = _stacking(kind, memory, len(values), "length" in feeds)
    return runner.run(runner.binding(), feeds, ())["stacked"]
