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

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import CONTRIB, Editor, constant
from espnet_onnx_plugin.quantize.layers import Replacement, added_bias

#: Weights that share a scale, by bits. Blocks of 32 take a quarter more time than those
#: of 128; in 4 bits they have a quarter less error, in 8 bits none to speak of.
BLOCKS = {8: 128, 4: 32}

#: MatMulNBits quantizes activations too.
_INTEGER_ACTIVATIONS = 4


def per_channel(
    weight: np.ndarray, axis: int, reduce_range: bool
) -> tuple[np.ndarray, np.ndarray]:
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


def per_block(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
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


def dynamic_int8(editor: Editor, node: ir.Node, reduce_range: bool) -> Replacement:
    """The dynamic form of a product and of the bias that follows it."""
    source, weight = node.inputs
    value, scale = per_channel(constant(weight), 1, reduce_range)
    w = editor.add_constant(value, f"{weight.name}.int8")
    w_scale = editor.add_constant(scale, f"{weight.name}.int8.scale")
    quantized = editor.once(Editor.add, "DynamicQuantizeLinear", source, outputs=3)
    x, x_scale, x_zero = quantized.outputs
    inputs, output = [x, w, x_scale, w_scale, x_zero], node.outputs[0]
    add, bias = added_bias(node) or (None, None)
    if add is not None and constant(bias).size == len(scale):
        inputs += [None, bias]
        output = add.outputs[0]
    return {output: editor.put("MatMulIntegerToFloat", *inputs, domain=CONTRIB)}


def in_blocks(editor: Editor, node: ir.Node, bits: int) -> Replacement:
    """The form in blocks of a product."""
    source, weight = node.inputs
    rows, columns = constant(weight).shape
    y = editor.put(
        "MatMulNBits",
        source,
        *editor.once(_blocks, weight, bits),
        domain=CONTRIB,
        K=rows,
        N=columns,
        bits=bits,
        block_size=BLOCKS[bits],
        accuracy_level=_INTEGER_ACTIVATIONS,
    )
    return {node.outputs[0]: y}


def _blocks(editor: Editor, weight: ir.Value, bits: int) -> tuple[ir.Value, ir.Value]:
    """Weights and scales, which layers that share a weight share too."""
    value, scale = per_block(constant(weight), bits)
    name = f"{weight.name}.int{bits}.blocks"
    return editor.add_constant(value, name), editor.add_constant(scale, f"{name}.scale")
