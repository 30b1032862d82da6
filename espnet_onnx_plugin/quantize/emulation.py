"""16-bit arithmetic on a CPU: float32, with every result rounded.

onnxruntime runs a graph in float16 on the CPU, too, but not as a GPU does: where it has
no kernel it computes in float32 and drops the casts between two such operators, so that
100 * 1000 / 1000 is 100 there and infinite on a GPU. bfloat16 it does not run at all.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.files import temporary_directory
from espnet_onnx_plugin.optimize.editor import Editor, constant
from espnet_onnx_plugin.quantize.half import EXACT, cast, give, infer_types

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def emulate_graph(source: Path, target: Path) -> None:
    """Write a graph that gives on a CPU what another one in 16 bits gives on a GPU.

    But for the order of summation: products are sums of float32 there, too.
    """
    editor = Editor(load_graph(source))
    infer_types(editor.model)
    graph = editor.graph
    nodes = list(graph)
    for value in [*graph.initializers.values(), *graph.inputs]:
        if _is_half(value):
            array, users = constant(value), value.uses()
            if array is None:
                _redirect(users, cast(editor, value, ir.DataType.FLOAT))
            else:
                _redirect(users, editor.add_constant(array.astype(np.float32)))
    outputs = {value: i for i, value in enumerate(graph.outputs)}
    for node in nodes:
        tensor = node.attributes.get("value")
        if node.op_type == "ConstantOfShape" and _is_half(node.outputs[0]):
            wide = ir.tensor(tensor.value.numpy().astype(np.float32))
            node.attributes["value"] = ir.AttrTensor("value", wide)
        for value in filter(_is_half, node.outputs):
            users, low = value.uses(), value
            if node.op_type != "Cast":
                low = cast(editor, value, value.dtype)
                value.type = ir.TensorType(ir.DataType.FLOAT)
                if value in outputs:
                    give(graph, outputs[value], low)
            if node.op_type not in EXACT:
                _redirect(users, cast(editor, low, ir.DataType.FLOAT))
    editor.tidy()
    save_graph(editor.model, target)


def _is_half(value: ir.Value) -> bool:
    tensor = value.const_value
    return (value.dtype if tensor is None else tensor.dtype) in _HALF


def _redirect(users: Collection[tuple[ir.Node, int]], new: ir.Value) -> None:
    for node, index in users:
        node.replace_input_with(index, new)


@contextlib.contextmanager
def emulated(bundle: Bundle) -> Iterator[Bundle]:
    """A bundle that does on a CPU what another one in 16 bits does on a GPU."""
    with temporary_directory() as work:
        graphs = {graph.file.name for graph in bundle.manifest.graphs.values()}
        for file in bundle.path.iterdir():
            if file.name in graphs:
                emulate_graph(file, work / file.name)
            elif file.suffix != ".weights":
                shutil.copyfile(file, work / file.name)
        yield Bundle(work, replace(bundle.manifest, precision="fp32"))
