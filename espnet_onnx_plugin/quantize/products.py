"""Products with constant matrices in lower precision.

Two forms. *Dynamic int8*: weights in 8 bits per column, activations quantized per
tensor as they come, integer product (``MatMulIntegerToFloat``); fast on processors with
dot-product instructions. *Blocks*: weights in 8 or 4 bits per block of a column,
activations in 8 bits per block of a row as they come (``MatMulNBits``): smaller or
slower, but an outlier costs only its block, among the weights and the activations.

Measured on one AMX core, 48 products of a Transformer layer's sizes (50 MB in fp32): 10
rows take 10.0 ms in fp32, 1.3 ms in dynamic int8, 3.4 ms in blocks of 8 bits and 4.1 ms
of 4 bits; one row 5.8, 1.2, 1.2 and 0.8 ms. With activations in floats (accuracy_level
0) blocks of 8 bits take 37 ms.
"""

from typing import Dict, List

import numpy as np
import onnx
from onnx.helper import make_node

from espnet_onnx_plugin.quantize.layers import Editor, Replacement, bias_of

MICROSOFT = "com.microsoft"

#: Weights that share a scale, by bits. Blocks of 32 take a quarter more time than those
#: of 128; in 4 bits they have a quarter less error, in 8 bits none to speak of.
BLOCKS = {8: 128, 4: 32}

#: MatMulNBits quantizes activations too.
_INTEGER_ACTIVATIONS = 4


def per_channel(
    weight: np.ndarray, axis: int, reduce_range: bool
) -> "tuple[np.ndarray, np.ndarray]":
    """Symmetric signed 8-bit (7-bit with ``reduce_range``) weights and their scales.

    Args:
        weight: of any shape.
        axis: that of the output channels, each of which has its own scale.

    Returns:
        int8 of the weight's shape, and float32 (channels,).
    """
    largest = 63 if reduce_range else 127
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / largest, 1e-12)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    quantized = np.rint(weight / scale.reshape(shape)).clip(-largest, largest)
    return quantized.astype(np.int8), scale.astype(np.float32)


def per_block(weight: np.ndarray, bits: int) -> "tuple[np.ndarray, np.ndarray]":
    """Symmetric weights of 8 or 4 bits per block of a column, as in MatMulNBits.

    Args:
        weight: (K, N).

    Returns:
        uint8 (N, blocks, bytes of a block), whose zero is half the range, and the
        scales, float32 (N, blocks).
    """
    rows, columns = weight.shape
    blocks = -(-rows // BLOCKS[bits])
    padded = np.zeros((columns, blocks * BLOCKS[bits]), np.float32)
    padded[:, :rows] = weight.T
    padded = padded.reshape(columns, blocks, BLOCKS[bits])
    zero = 1 << (bits - 1)
    # The value of largest magnitude becomes -zero, the end of the range that has one
    # more step, whatever its sign: the scale may be negative.
    index = np.abs(padded).argmax(axis=-1)[..., None]
    scale = np.take_along_axis(padded, index, axis=-1) / -zero
    scale[scale == 0] = 1.0
    quantized = (np.rint(padded / scale) + zero).clip(0, 2 * zero - 1).astype(np.uint8)
    if bits == 4:
        quantized = quantized[..., 0::2] | (quantized[..., 1::2] << 4)
    return quantized, scale[..., 0]


def dynamic_int8(
    editor: Editor,
    node: onnx.NodeProto,
    quantized_inputs: Dict[str, List[str]],
    reduce_range: bool,
) -> Replacement:
    """The dynamic form of a product and of the bias that follows it.

    Args:
        quantized_inputs: what earlier calls made of their inputs: value, scale and zero
            point by the input's name; products of one input share them.

    Returns:
        Nodes to replace, see :meth:`Editor.replace`.
    """
    source, weight = node.input
    array = editor.array(weight)
    columns = array.shape[1]
    value, scale = per_channel(array, 1, reduce_range)
    value = editor.constant(f"{editor.own_name(weight, node)}.int8", value)
    scale = editor.constant(f"{weight}.int8.scale", scale)
    nodes = []
    if source not in quantized_inputs:
        quantized_inputs[source] = [f"{source}.{x}" for x in ("uint8", "scale", "zero")]
        nodes.append(
            make_node("DynamicQuantizeLinear", [source], quantized_inputs[source])
        )
    a, a_scale, a_zero = quantized_inputs[source]
    inputs, output, removed = [a, value, a_scale, scale, a_zero], node.output[0], {}
    add = editor.bias(node)
    if add is not None and editor.constants[bias_of(editor, add)].dims == [columns]:
        inputs += ["", bias_of(editor, add)]
        output = add.output[0]
        removed = {output: []}
    nodes.append(make_node("MatMulIntegerToFloat", inputs, [output], domain=MICROSOFT))
    return {node.output[0]: nodes, **removed}


def in_blocks(editor: Editor, node: onnx.NodeProto, bits: int) -> Replacement:
    """The form in blocks of a product; see :func:`dynamic_int8`."""
    source, weight = node.input
    array = editor.array(weight)
    value, scale = per_block(array, bits)
    value = editor.constant(f"{weight}.int{bits}.blocks", value)
    scale = editor.constant(f"{weight}.int{bits}.blocks.scale", scale)
    new = make_node(
        "MatMulNBits",
        [source, value, scale],
        [node.output[0]],
        domain=MICROSOFT,
        K=array.shape[0],
        N=array.shape[1],
        bits=bits,
        block_size=BLOCKS[bits],
        accuracy_level=_INTEGER_ACTIVATIONS,
    )
    return {node.output[0]: [new]}
