"""Projections of a symmetric table of relative positions."""

from collections import Counter
from typing import Optional, Tuple

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.rules.graph import (
    Graph,
    attribute,
    constant,
    linear,
    made_by,
    scalar,
    tail,
)


def apply(graph: Graph) -> int:
    """The projection of positions time - 1 .. 1 - time takes half the products.

    A row of the table is (sin, cos) of its position's angles, so with the rows of the
    weight told apart, W P(p) = S(p) + C(p) and W P(-p) = C(p) - S(p): both halves come
    from the products for p = 0 .. time - 1. All providers.
    """
    count = 0
    for node in graph.nodes("MatMul"):
        table = _match(node.inputs[0]) if linear(node.outputs[0]) is not None else None
        weight = constant(node.inputs[1])
        if table is None or weight.shape[0] % 2:
            continue
        last, frequencies = table

        def angles() -> ir.Value:
            one = graph.add_constant(np.array(1, np.int64))
            zero = graph.add_constant(np.array(0, np.int64))
            positions = graph.put("Range", zero, graph.put("Add", last, one), one)
            positions = graph.put("Cast", positions, to=ir.DataType.FLOAT.value)
            return graph.put(
                "Mul", graph.put("Unsqueeze", positions, graph.ints(1)), frequencies
            )

        angle = graph.once(("angles", last, frequencies), angles)
        sin = graph.once(("sin", angle), lambda: graph.put("Sin", angle))
        cos = graph.once(("cos", angle), lambda: graph.put("Cos", angle))
        odd = graph.put("MatMul", sin, graph.add_constant(weight[0::2]))
        even = graph.put("MatMul", cos, graph.add_constant(weight[1::2]))
        left = graph.put(
            "Slice",
            graph.put("Add", even, odd),
            graph.ints(-1),
            graph.ints(np.iinfo(np.int64).min),
            graph.ints(0),
            graph.ints(-1),
        )
        right = graph.put(
            "Slice",
            graph.put("Sub", even, odd),
            graph.ints(1),
            graph.ints(np.iinfo(np.int64).max),
            graph.ints(0),
        )
        both = graph.put("Concat", left, right, axis=0)
        graph.replace(node.outputs[0], graph.put("Unsqueeze", both, graph.ints(0)))
        count += 1
    return count


def _match(table: ir.Value) -> Optional[Tuple[ir.Value, ir.Value]]:
    """(time - 1, angular frequencies) if this is (1, 2 * time - 1, size) of sinusoids.

    Sines and cosines take turns; positions go from time - 1 down to 1 - time.
    """
    batch = made_by(table, "Unsqueeze")
    if batch is None or _ints(batch.inputs[1]) != [0]:
        return None
    flat = made_by(batch.inputs[0], "Reshape")
    size = tail(flat.inputs[1], 2) if flat is not None else None
    stack = made_by(flat.inputs[0], "Concat") if size and size[0] == -1 else None
    if stack is None or attribute(stack, "axis") not in (-1, 2):
        return None
    angle = None
    for value, op_type in zip(stack.inputs, ("Sin", "Cos")):
        column = made_by(value, "Unsqueeze")
        if column is None or _ints(column.inputs[1]) not in ([-1], [2]):
            return None
        function = made_by(column.inputs[0], op_type)
        if function is None or (angle is not None and function.inputs[0] is not angle):
            return None
        angle = function.inputs[0]
    product = made_by(angle, "Mul")
    if product is None or constant(product.inputs[1]) is None:
        return None
    if size[1] != 2 * constant(product.inputs[1]).size:
        return None
    column = made_by(product.inputs[0], "Unsqueeze")
    cast = made_by(column.inputs[0], "Cast") if column is not None else None
    down = made_by(cast.inputs[0], "Sub") if cast is not None else None
    count = made_by(down.inputs[1], "Range") if down is not None else None
    if count is None or scalar(count.inputs[0]) != 0 or scalar(count.inputs[2]) != 1:
        return None
    last, rows = _sum(down.inputs[0]), _sum(count.inputs[1])
    for term in last:
        rows[term] -= 2 * last[term]
    rows[None] -= 1
    return None if any(rows.values()) else (down.inputs[0], product.inputs[1])


def _ints(value: ir.Value) -> Optional[list]:
    array = constant(value)
    return None if array is None else array.reshape(-1).tolist()


def _sum(value: ir.Value) -> Counter:
    """A whole number as a sum: how often each value, and under None the constant."""
    number = scalar(value)
    if number is not None:
        return Counter({None: int(number)})
    node = made_by(value, "Add", "Sub", "Mul")
    if node is None:
        return Counter({value: 1})
    a, b = map(_sum, node.inputs)
    if node.op_type == "Mul":
        if set(a) - {None}:
            a, b = b, a
        if set(a) - {None}:
            return Counter({value: 1})
        return Counter({term: n * a[None] for term, n in b.items()})
    sign = 1 if node.op_type == "Add" else -1
    for term, n in b.items():
        a[term] += sign * n
    return a
