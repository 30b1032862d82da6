"""Convolutions of width 1 are matrix products."""

from __future__ import annotations

import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    made_by,
)


def apply(editor: Editor) -> int:
    """Conv1d of width 1 becomes MatMul + Add on (batch, time, channels).

    Where channels come last before or after it: the int8 quantizer can then take it,
    and of the transposes most cancel. Between other convolutions it stays one of them
    (a WaveNet of 30 layers takes 1.06 s so and 1.22 s as products). All providers.
    """
    count = 0
    for node in editor.nodes("Conv"):
        weight = constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is None or weight.ndim != 3 or weight.shape[2] != 1:
            continue
        if len(node.inputs) > 2 and bias is None:
            continue
        if (
            attribute(node, "group", 1) != 1
            or list(attribute(node, "strides", [1])) != [1]
            or any(attribute(node, "pads", [0, 0]))
            or not _beside_transpose(node)
        ):
            continue
        x = editor.put("Transpose", node.inputs[0], perm=[0, 2, 1])
        y = editor.put("MatMul", x, editor.add_constant(weight[:, :, 0].T))
        if bias is not None:
            y = editor.put("Add", y, node.inputs[2])
        editor.replace(node.outputs[0], editor.put("Transpose", y, perm=[0, 2, 1]))
        count += 1
    return count


def _beside_transpose(node: ir.Node) -> bool:
    return made_by(node.inputs[0], "Transpose") is not None or any(
        user.op_type == "Transpose" for user in node.outputs[0].consumers()
    )
