"""Convolutions in static int8: unsigned activations, signed weights per channel.

Their dynamic form (``ConvInteger``) is many times slower than floats, the static one
several times faster. It needs the range of every convolution's input and output, which
only real audio tells.
"""

import math
from typing import Dict, List, Mapping, Tuple

import numpy as np
import onnx
from onnx.helper import make_node

from espnet_onnx_plugin.quantize.layers import Editor, Replacement
from espnet_onnx_plugin.quantize.products import per_channel

#: Products in a value from which int8 pays. Measured on one AMX core: 4608 (the second
#: subsampling convolution of a conformer) 157 -> 33 ms, 31 (depthwise) and 9 (the first
#: subsampling convolution) nothing or less.
MIN_PRODUCTS = 64

#: Channels on both sides from which it pays. A filter along one or a few is bound by
#: memory, and that of an RNN decoder reads attention weights, most of which are below a
#: step of 8 bits. One from 32 channels to a waveform takes 1.7 ms in int8, 0.9 in fp32.
MIN_CHANNELS = 8

#: Smallest and largest value of a tensor.
Range = Tuple[float, float]


def result(editor: Editor, node: onnx.NodeProto) -> str:
    """What a quantized convolution gives: the tensor after its ``Relu``, if any."""
    relu = editor.only_consumer(node.output[0])
    if relu is not None and relu.op_type == "Relu":
        return relu.output[0]
    return node.output[0]


def pays(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether int8 is faster: where each value is the sum of many products."""
    outputs, inputs, *kernel = editor.constants[node.input[1]].dims
    products = inputs * math.prod(kernel)
    return min(outputs, inputs) >= MIN_CHANNELS and products >= MIN_PRODUCTS


def _parameters(editor: Editor, name: str, span: Range) -> List[str]:
    """Scale and zero point of a tensor: the range, with 0 in it, in 256 steps."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = max((high - low) / 255, 1e-12)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return [
        editor.constant(f"{name}.uint8.scale", np.float32(scale)),
        editor.constant(f"{name}.uint8.zero", zero),
    ]


def static_int8(
    editor: Editor,
    node: onnx.NodeProto,
    ranges: Mapping[str, Range],
    quantized: Dict[str, List[str]],
    reduce_range: bool,
) -> Replacement:
    """The static form of a convolution and of the ``Relu`` that follows it.

    Args:
        ranges: of the convolution's input and :func:`result`, by name.
        quantized: tensors that are there in 8 bits already: value, scale and zero point
            by name; what this convolution gives is added.

    Returns:
        Nodes to replace, see :meth:`Editor.replace`.
    """
    source, weight = node.input[:2]
    output = result(editor, node)
    nodes = []
    if source not in quantized:
        scale_zero = _parameters(editor, source, ranges[source])
        quantized[source] = [f"{source}.uint8", *scale_zero]
        nodes.append(
            make_node("QuantizeLinear", [source, *scale_zero], [f"{source}.uint8"])
        )
    x = quantized[source]
    value, scale = per_channel(editor.array(weight), 0, reduce_range)
    name = editor.own_name(weight, node)
    w = [
        editor.constant(f"{name}.int8", value),
        editor.constant(f"{weight}.int8.scale", scale),
        editor.constant(f"{name}.int8.zero", np.zeros(len(scale), np.int8)),
    ]
    y_scale_zero = _parameters(editor, output, ranges[output])
    quantized[output] = y = [f"{output}.uint8", *y_scale_zero]
    inputs = [*x, *w, *y_scale_zero]
    if len(node.input) > 2:
        steps = editor.array(node.input[2]) / (editor.array(x[1]) * scale)
        inputs.append(
            editor.constant(f"{node.input[2]}.int32", np.rint(steps).astype(np.int32))
        )
    conv = make_node("QLinearConv", inputs, y[:1])
    conv.attribute.extend(node.attribute)
    nodes += [conv, make_node("DequantizeLinear", y, [output])]
    removed = {} if output == node.output[0] else {output: []}
    return {node.output[0]: nodes, **removed}
