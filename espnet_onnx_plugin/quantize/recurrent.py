"""LSTM layers over sequences in dynamic int8 (``DynamicQuantizeLSTM``).

Weights in 8 bits per column of each direction; input and hidden state in 8 bits with
one scale, as they come. There is no such operator for GRU.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import CONTRIB, Editor, constant
from espnet_onnx_plugin.quantize.layers import Replacement
from espnet_onnx_plugin.quantize.products import per_channel


def _quantized(
    editor: Editor, weights: ir.Value, reduce_range: bool
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Weights (directions, input, 4 * hidden) in int8, their scales and zero points.

    Args:
        weights: as ONNX's LSTM has them, (directions, 4 * hidden, input).
    """
    pairs = [per_channel(w, 0, reduce_range) for w in constant(weights)]
    values = np.stack([value.T for value, _ in pairs])
    scales = np.stack([scale for _, scale in pairs])
    zeros = np.zeros_like(scales, np.int8)
    return (
        editor.add_constant(values, f"{weights.name}.int8"),
        editor.add_constant(scales, f"{weights.name}.int8.scale"),
        editor.add_constant(zeros, f"{weights.name}.int8.zero"),
    )


def dynamic_int8(editor: Editor, node: ir.Node, reduce_range: bool) -> Replacement:
    """The dynamic form of an LSTM."""
    source, w_weights, r_weights, *others = node.inputs
    w, w_scale, w_zero = _quantized(editor, w_weights, reduce_range)
    r, r_scale, r_zero = _quantized(editor, r_weights, reduce_range)
    others += [None] * (5 - len(others))  # bias, lengths, initial states, peepholes
    new = editor.add(
        "DynamicQuantizeLSTM",
        *(source, w, r, *others, w_scale, w_zero, r_scale, r_zero),
        domain=CONTRIB,
        outputs=len(node.outputs),
        **node.attributes,
    )
    return {
        old: value
        for old, value in zip(node.outputs, new.outputs)
        if old.uses() or old.is_graph_output()
    }
