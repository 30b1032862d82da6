"""The layers of a graph that can be quantized: what they are called, where they lie.

A layer is a product with a constant matrix, or a convolution or an LSTM with constant
weights, and does not lead to a ``Log``: a power spectrum spans ten orders of magnitude,
and in 8 bits its quiet bins, of which the logarithm is taken, are all zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    constant,
    is_linear,
    only_user,
    product_of,
    vector,
)

PRODUCT, CONVOLUTION, RECURRENT = "product", "convolution", "recurrent"

_KINDS = {"MatMul": PRODUCT, "Conv": CONVOLUTION, "LSTM": RECURRENT}

#: New values by those whose places they take.
Replacement = dict[ir.Value, ir.Value]


@dataclass(frozen=True)
class Layer:
    """A layer of a graph.

    Attributes:
        name: unique in the graph; the module's path in ESPnet's model where a parameter
            tells it, e.g. ``encoder.encoders.0.feed_forward.w_1``, or the last such one
            and how many layers after it, e.g. ``ctc.ctc_lo+1``.
        kind: :data:`PRODUCT`, :data:`CONVOLUTION` or :data:`RECURRENT`.
    """

    name: str
    kind: str


def find_layers(model: ir.Model) -> dict[Layer, ir.Node]:
    """The layers of a graph and their nodes, in its order."""
    skipped = leading_to(model, {"Log"})
    layers: dict[Layer, ir.Node] = {}
    names: set[str] = set()
    last, after = "", 0
    for node in model.graph:
        if node in skipped or node.domain or node.op_type not in _KINDS:
            continue
        weight = constant(node.inputs[1])
        if weight is None or node.op_type == "MatMul" and weight.ndim != 2:
            continue
        module = _module(node)
        if module is None or module in names:
            after += 1
            name = f"{last}+{after}"
        else:
            name = last = module
            after = 0
        names.add(name)
        layers[Layer(name, _KINDS[node.op_type])] = node
    return layers


def _module(node: ir.Node) -> str | None:
    """Path of the module whose parameters a node holds, if they tell."""
    _, bias = added_bias(node) or (None, None)
    for parameter in (*node.inputs[1:], bias):
        name = parameter.name if parameter is not None else None
        match = re.fullmatch(r"(.+)\.(weight|bias)(\.\w+)?", name or "")
        if match:
            return match[1]
    return None


def added_bias(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The addition of a constant vector that alone follows a node, and the vector."""
    add = only_user(node.outputs[0], "Add")
    for value in add.inputs if add is not None else ():
        if vector(value) is not None:
            return add, value
    return None


def leading_to(model: ir.Model, operators: Iterable[str]) -> set[ir.Node]:
    """The nodes of some operators and all nodes before them."""
    found: set[ir.Node] = set()
    for node in reversed(model.graph):
        users = (user for value in node.outputs for user in value.consumers())
        if node.op_type in operators or not found.isdisjoint(users):
            found.add(node)
    return found


def gemms_to_products(editor: Editor) -> None:
    """Turn ``Gemm`` with a constant matrix into a product and an addition."""
    for node in editor.nodes("Gemm"):
        if is_linear(node):
            y = product_of(editor, node)
            if node.inputs[2:]:
                y = editor.put("Add", y, *node.inputs[2:])
            editor.replace(node.outputs[0], y)
    editor.tidy()
