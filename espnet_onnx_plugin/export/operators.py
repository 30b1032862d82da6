"""Operators that onnxruntime is slow at, and what stands in a graph in their place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def replace_prelu(model: ir.Model) -> None:
    """Put other operators in the place of each ``PRelu``; the results are the same.

    onnxruntime computes it number by number: 39 % of the time of a Conv-TasNet's graph,
    and half of its int8 graph's. ``LeakyRelu``, for one slope, takes a twentieth of it,
    and merges with a convolution before it. For several slopes there is the positive
    part and, with slopes, the negative part.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type != "PRelu" or node.domain:
            continue
        x, slopes = node.inputs
        numbers = None if slopes.const_value is None else slopes.const_value.numpy()
        if numbers is not None and numbers.size == 1:
            alpha = float(numbers.reshape(()))
            nodes = [ir.node("LeakyRelu", [x], {"alpha": alpha})]
        else:
            zero = ir.node("Constant", [], {"value": ir.tensor(np.float32(0))})
            below = ir.node("Min", [x, *zero.outputs])
            above = ir.node("Relu", [x])
            sloped = ir.node("Mul", [*below.outputs, slopes])
            added = ir.node("Add", [*above.outputs, *sloped.outputs])
            nodes = [zero, below, above, sloped, added]
        ir.convenience.replace_nodes_and_values(
            node.graph, node, [node], nodes, node.outputs, nodes[-1].outputs
        )
        if slopes.is_initializer() and not slopes.uses():
            slopes.graph.initializers.pop(slopes.name)
