"""LSTM layers over sequences in dynamic int8 (``DynamicQuantizeLSTM``).

Weights in 8 bits per column of each direction; input and hidden state in 8 bits with
one scale, as they come. There is no such operator for GRU.
"""

from typing import List

import numpy as np
import onnx
from onnx.helper import make_node

from espnet_onnx_plugin.quantize.layers import Editor, Replacement
from espnet_onnx_plugin.quantize.products import MICROSOFT, per_channel


def _quantized(
    editor: Editor, node: onnx.NodeProto, name: str, reduce_range: bool
) -> List[str]:
    """Weights (directions, input, 4 * hidden) in int8, their scales and zero points.

    Args:
        node: the LSTM.
        name: the weights as ONNX's LSTM has them, (directions, 4 * hidden, input).
    """
    pairs = [per_channel(w, 0, reduce_range) for w in editor.array(name)]
    values = np.stack([value.T for value, _ in pairs])
    scales = np.stack([scale for _, scale in pairs])
    own = editor.own_name(name, node)
    return [
        editor.constant(f"{own}.int8", values),
        editor.constant(f"{name}.int8.scale", scales),
        editor.constant(f"{own}.int8.zero", np.zeros_like(scales, np.int8)),
    ]


def dynamic_int8(
    editor: Editor, node: onnx.NodeProto, reduce_range: bool
) -> Replacement:
    """The dynamic form of an LSTM.

    Returns:
        Nodes to replace, see :meth:`Editor.replace`.
    """
    source, w_name, r_name, *others = node.input
    w, w_scale, w_zero = _quantized(editor, node, w_name, reduce_range)
    r, r_scale, r_zero = _quantized(editor, node, r_name, reduce_range)
    others += [""] * (5 - len(others))  # bias, lengths, initial states, peepholes
    inputs = [source, w, r, *others, w_scale, w_zero, r_scale, r_zero]
    new = make_node("DynamicQuantizeLSTM", inputs, node.output, domain=MICROSOFT)
    new.attribute.extend(node.attribute)
    return {node.output[0]: [new]}
