"""Convolutions in static int8: unsigned activations, signed weights per channel.

Their dynamic form (``ConvInteger``) is many times slower than floats, the static one
several times faster. It needs the range of every convolution's input and output, which
only real audio tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import Editor, constant, made_by, only_user
from espnet_onnx_plugin.quantize.layers import Replacement
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
Range = tuple[float, float]


def result(node: ir.Node) -> ir.Value:
    """Output of a quantized convolution: the tensor after its ``Relu``, if any."""
    relu = only_user(node.outputs[0], "Relu")
    return (relu or node).outputs[0]


def pays(node: ir.Node) -> bool:
    """Whether int8 is faster: where each value is the sum of many products."""
    weight = constant(node.inputs[1])
    products = weight[0].size
    return min(weight.shape[:2]) >= MIN_CHANNELS and products >= MIN_PRODUCTS


def _parameters(editor: Editor, name: str, span: Range) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point of a tensor: the range, with 0 in it, in 256 steps."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = max((high - low) / 255, 1e-12)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return (
        editor.add_constant(np.float32(scale), f"{name}.uint8.scale"),
        editor.add_constant(zero, f"{name}.uint8.zero"),
    )


def _quantized(
    editor: Editor, source: ir.Value, ranges: Mapping[str, Range]
) -> Sequence[ir.Value]:
    """Value, scale and zero point, which convolutions of one input share."""
    before = made_by(source, "DequantizeLinear")  # of another convolution
    if before is not None:
        return before.inputs
    return editor.once(_quantize, source, ranges[source.name])


def _quantize(editor: Editor, source: ir.Value, span: Range) -> Sequence[ir.Value]:
    parameters = _parameters(editor, source.name, span)
    return editor.put("QuantizeLinear", source, *parameters), *parameters


def static_int8(
    editor: Editor,
    node: ir.Node,
    ranges: Mapping[str, Range],
    reduce_range: bool,
) -> Replacement:
    """The static form of a convolution and of the ``Relu`` that follows it.

    Args:
        ranges: of the convolution's input and :func:`result`, by name.
    """
    source, weight, *bias = node.inputs
    output = result(node)
    x = _quantized(editor, source, ranges)
    value, scale = per_channel(constant(weight), 0, reduce_range)
    w = [
        editor.add_constant(value, f"{weight.name}.int8"),
        editor.add_constant(scale, f"{weight.name}.int8.scale"),
        editor.add_constant(np.zeros(len(scale), np.int8), f"{weight.name}.int8.zero"),
    ]
    y = _parameters(editor, output.name, ranges[output.name])
    steps = []
    if bias:
        rounded = np.rint(constant(bias[0]) / (constant(x[1]) * scale))
        name = f"{bias[0].name}.int32"
        steps.append(editor.add_constant(rounded.astype(np.int32), name))
    conv = editor.put("QLinearConv", *x, *w, *y, *steps, **node.attributes)
    return {output: editor.put("DequantizeLinear", conv, *y)}
