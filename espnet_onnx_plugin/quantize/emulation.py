"""16-bit arithmetic on a CPU: float32, with every result rounded.

onnxruntime runs a graph in float16 on the CPU, too, but not as a GPU does: where it has
no kernel it computes in float32 and drops the casts between two such operators, so that
100 * 1000 / 1000 is 100 there and infinite on a GPU. Graphs in bfloat16 it does not run.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.optimize.editor import Editor, constant
from espnet_onnx_plugin.quantize.half import EXACT, infer_types

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def emulate_graph(source: Path, target: Path) -> None:
    """Write a graph that gives on a CPU what another one in 16 bits gives on a GPU.

    But for the order of summation: products are sums of float32 there, too.
    """
    editor = Editor(load_graph(source))
    infer_types(editor.model)
    graph, float32 = editor.graph, ir.TensorType(ir.DataType.FLOAT)
    nodes = list(graph)
    for value in [*graph.initializers.values(), *graph.inputs]:
        dtype = _dtype(value)
        if dtype not in _HALF:
            continue
        array, users = constant(value), value.uses()
        if array is not None:
            new = editor.add_constant(array.astype(np.float32), value.name)
        else:
            new = editor.put("Cast", value, to=float32.dtype.value)
        _redirect(users, new)
    for node in nodes:
        for value in node.outputs:
            dtype, users = _dtype(value), value.uses()
            if dtype not in _HALF:
                continue
            index = next((i for i, v in enumerate(graph.outputs) if v is value), None)
            end = value
            if node.op_type != "Cast":
                value.type = float32
                if index is not None or node.op_type not in EXACT:
                    end = editor.put("Cast", value, to=dtype.value)
            if index is not None and end is not value:
                end.name, value.name = value.name, end.name
                end.type, end.shape = ir.TensorType(dtype), value.shape
                graph.outputs[index] = end
            if node.op_type == "Cast" or node.op_type not in EXACT:
                _redirect(users, editor.put("Cast", end, to=float32.dtype.value))
        tensor = node.attributes.get("value")
        if node.op_type == "ConstantOfShape" and tensor is not None:
            array = tensor.value.numpy()
            if tensor.value.dtype in _HALF:
                made = ir.tensor(array.astype(np.float32))
                node.attributes["value"] = ir.AttrTensor("value", made)
    editor.tidy()
    save_graph(editor.model, target)


def _dtype(value: ir.Value) -> ir.DataType | None:
    tensor = value.const_value
    return value.dtype if tensor is None else tensor.dtype


def _redirect(users: Iterator[ir.Usage], new: ir.Value) -> None:
    for node, index in users:
        node.replace_input_with(index, new)


@contextlib.contextmanager
def emulated(bundle: Bundle) -> Iterator[Bundle]:
    """A bundle that does on a CPU what another one in 16 bits does on a GPU."""
    with tempfile.TemporaryDirectory(dir=bundle.path.parent) as directory:
        work = Path(directory)
        graphs = {graph.file.name for graph in bundle.manifest.graphs.values()}
        for file in bundle.path.iterdir():
            if file.name in graphs:
                emulate_graph(file, work / file.name)
            elif file.suffix != ".weights":
                shutil.copyfile(file, work / file.name)
        yield Bundle(work, replace(bundle.manifest, precision="fp32"))
