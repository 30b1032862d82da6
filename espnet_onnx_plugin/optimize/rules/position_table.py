"""Projections of a symmetric table of relative positions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    linear,
    made_by,
    scalar,
    tail,
)


def apply(editor: Editor) -> int:
    """The projection of positions time - 1 .. 1 - time takes half the products.

    A row of the table is (sin, cos) of its position's angles, so with the rows of the
    weight told apart, W P(p) = S(p) + C(p) and W P(-p) = C(p) - S(p): both halves come
    from the products for p = 0 .. time - 1. CPU: on a GPU half of such a product takes
    less than five launches.
    """
    count = 0
    for node in editor.nodes("MatMul"):
        table = _match(node.inputs[0]) if linear(node.outputs[0]) is not None else None
        weight = constant(node.inputs[1])
        if table is None or weight.shape[0] % 2:
            continue
        angles = editor.once(_angles, *table)
        sin, cos = (editor.once(Editor.put, x, angles) for x in ("Sin", "Cos"))
        odd = editor.put("MatMul", sin, editor.add_constant(weight[0::2]))
        even = editor.put("MatMul", cos, editor.add_constant(weight[1::2]))
        left = editor.put(
            "Slice",
            editor.put("Add", even, odd),
            editor.ints(-1),
            editor.ints(np.iinfo(np.int64).min),
            editor.ints(0),
            editor.ints(-1),
        )
        right = editor.put(
            "Slice",
            editor.put("Sub", even, odd),
            editor.ints(1),
            editor.ints(np.iinfo(np.int64).max),
            editor.ints(0),
        )
        both = editor.put("Concat", left, right, axis=0)
        editor.replace(node.outputs[0], editor.put("Unsqueeze", both, editor.ints(0)))
        count += 1
    return count


def _angles(editor: Editor, last: ir.Value, frequencies: ir.Value) -> ir.Value:
    zero, one = (editor.add_constant(np.array(i, np.int64)) for i in (0, 1))
    positions = editor.put("Range", zero, editor.put("Add", last, one), one)
    positions = editor.put("Cast", positions, to=ir.DataType.FLOAT.value)
    column = editor.put("Unsqueeze", positions, editor.ints(1))
    return editor.put("Mul", column, frequencies)


def _match(table: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """(time - 1, angular frequencies) if this is (1, 2 * time - 1, size) of sinusoids.

    Sines and cosines take turns; positions go from time - 1 down to 1 - time.
    """
    batch = made_by(table, "Unsqueeze")
    if batch is None or _ints(batch.inputs[1]) != [0]:
        return None
    flat = made_by(batch.inputs[0], "Reshape")
    size = tail(flat.inputs[1], 2) if flat is not None else None
    stack = made_by(flat.inputs[0], "Concat") if size and size[0] == -1 else None
    if stack is None or attribute(stack, "axis", 0) not in (-1, 2):
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


def _ints(value: ir.Value) -> list | None:
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
