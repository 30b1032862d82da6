"""Masks around a softmax as one bias for all layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import Editor, attribute, made_by, scalar


def apply(editor: Editor) -> int:
    """masked_fill before and after a softmax becomes one bias, made once a graph.

    Exactly equal in every row that has one valid key, since the exponential of the
    lowest float is 0; a row without any gets some finite mean instead of zeros. All
    providers.
    """
    count = 0
    for node in editor.nodes("Softmax"):
        before = made_by(node.inputs[0], "Where")
        if before is None or node.outputs[0].is_graph_output():
            continue
        mask, lowest, scores = before.inputs
        if (scalar(lowest) or 0.0) > -1e30:
            continue
        bias = editor.once(_bias, mask, lowest)
        softmax = editor.put(
            "Softmax",
            editor.put("Add", scores, bias),
            axis=attribute(node, "axis", -1),
        )
        for user in node.outputs[0].consumers():
            if (
                user.op_type == "Where"
                and user.inputs[0] is mask
                and scalar(user.inputs[1]) == 0.0
            ):
                editor.replace(user.outputs[0], softmax)
        editor.replace(node.outputs[0], softmax)
        count += 1
    return count


def _bias(editor: Editor, mask: ir.Value, lowest: ir.Value) -> ir.Value:
    zero = editor.add_constant(np.zeros((), np.float32))
    return editor.put("Where", mask, lowest, zero)
