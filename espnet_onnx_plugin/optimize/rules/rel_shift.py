"""Relative shift without its concatenation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    made_by,
)


def apply(editor: Editor) -> int:
    """Transformer-XL's shift of relative positions becomes a slice of the flat rows.

    ESPnet puts a column of zeros before (time, 2 * time - 1), views it as
    (2 * time, time), drops the first row, views it back and keeps ``time`` columns.
    That is out[i, j] = x[i, time - 1 - i + j]: from element time - 1 on, rows that are
    2 * time - 2 apart. Saves copying the table once. All providers.
    """
    count = 0
    for node in editor.nodes("Slice"):
        table = _match(node)
        if table is None:
            continue
        time = node.inputs[2]
        one, two, rows = editor.ints(1), editor.ints(2), editor.ints(0, 0, -1)
        start = editor.once(Editor.put, "Sub", time, one)
        # A single frame has one position; its stride must not be zero.
        stride = editor.once(Editor.put, "Mul", start, two)
        stride = editor.once(Editor.put, "Max", stride, one)
        end = editor.once(Editor.put, "Mul", time, stride)
        end = editor.once(Editor.put, "Add", start, end)
        shape = editor.once(Editor.put, "Concat", rows, stride, axis=0)
        flat = editor.put("Reshape", table, rows)
        shifted = editor.put("Slice", flat, start, end, two)
        shifted = editor.put("Reshape", shifted, shape)
        shifted = editor.put("Slice", shifted, editor.ints(0), time, editor.ints(3))
        editor.replace(node.outputs[0], shifted)
        count += 1
    return count


def _match(last: ir.Node) -> ir.Value | None:
    """The unshifted table, if this slice is the last node of a shift."""
    if not _slices(last, start=0, axis=3):
        return None
    back = made_by(last.inputs[0], "Reshape")
    drop = made_by(back.inputs[0], "Slice") if back is not None else None
    if drop is None or not _slices(drop, start=1, axis=2):
        return None
    stop = constant(drop.inputs[2])
    turned = made_by(drop.inputs[0], "Reshape")
    cat = made_by(turned.inputs[0], "Concat") if turned is not None else None
    if stop is None or stop.reshape(-1)[0] < 2**31 or cat is None:
        return None
    if attribute(cat, "axis", 0) not in (-1, 3) or len(cat.inputs) != 2:
        return None
    zeros = made_by(cat.inputs[0], "Expand")
    if zeros is None:
        return None
    filling = constant(zeros.inputs[0])
    # (.., heads, 2 * time, time) then (.., heads, time, 2 * time - 1): the number of
    # rows kept is the last axis of the view in between.
    view = made_by(turned.inputs[1], "Concat")
    if filling is None or np.any(filling) or view is None:
        return None
    return cat.inputs[1] if view.inputs[-1] is last.inputs[2] else None


def _slices(node: ir.Node, start: int, axis: int) -> bool:
    starts = constant(node.inputs[1])
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    return (
        starts is not None
        and axes is not None
        and steps is not None
        and starts.tolist() == [start]
        and axes.tolist() == [axis]
        and steps.tolist() == [1]
    )
