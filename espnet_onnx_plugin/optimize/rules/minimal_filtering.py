"""Convolutions at a waveform's rate with half of the products.

S. Winograd, "Arithmetic complexity of computations", 1980: four outputs of a filter of
r taps are a linear transform of 3 + r products, those of as many linear combinations of
the inputs and of the taps. A. Lavin and S. Gray, "Fast algorithms for convolutional
neural networks", 2016: summed over the channels, these products are matrix products,
and the transforms take little beside them where there are many channels.

Here a tile t has the outputs 4 t + d i and depends on the inputs 4 t + d n, d being the
dilation: an odd one, so that every output lies in one tile. The transform of the inputs
is then a convolution of stride 4 and dilation d, that of the outputs a transposed one.
Of filters longer than four taps, each four are a filter d tiles further on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import Editor, attribute, constant
from espnet_onnx_plugin.optimize.rules.conv1d import derived

#: Outputs of a tile.
TILE = 4

#: Where the polynomials are evaluated that are multiplied, besides at infinity: those
#: that lose the fewest digits, 7e-7 of a value.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, -0.5)

#: Cost of the transforms of a channel's value, in products: those of 128 channels and
#: 6400 values take some 3 ms, in which a core makes 160 million of them. From 90 to 150
#: a HiFi-GAN generator takes the same time, and most weights stay single with 150.
_COST = 150


class _Filter(NamedTuple):
    """A convolution that pays in this form, ``shorter`` than its input by some."""

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray
    taps: int
    blocks: int
    dilation: int
    padding: int
    shorter: int


def apply(editor: Editor) -> int:
    """Conv1d after upsampling takes half of the products, by Winograd's filtering.

    Its weights take twice the room, so only where they are read once for many values.
    For floats: nothing of it pays in integers. CPU.
    """
    filters = [f for f in map(_filter, _upsampled(editor)) if f is not None]
    for found in filters:
        editor.replace(found.node.outputs[0], _filtered(editor, found))
    return len(filters)


def _upsampled(editor: Editor) -> list[ir.Node]:
    """The convolutions after transposed ones."""
    found: list[ir.Node] = []
    todo = editor.nodes("ConvTranspose")
    seen = set(todo)  # which has no order: the same graph would come out in several
    while todo:
        for node in [user for v in todo.pop().outputs for user in v.consumers()]:
            if node not in seen:
                seen.add(node)
                todo.append(node)
                found += [node] if node.op_type == "Conv" else []
    return found


def _filter(node: ir.Node) -> _Filter | None:
    weight = constant(node.inputs[1])
    biased = len(node.inputs) > 2
    bias = constant(node.inputs[2]) if biased else None
    shape = node.inputs[0].shape
    if weight is None or weight.ndim != 3 or biased and bias is None:
        return None
    (stride,), (dilation,) = (
        attribute(node, name, [1]) for name in ("strides", "dilations")
    )
    outputs, inputs, width = weight.shape
    before, after = attribute(node, "pads", [0, 0])
    if (
        shape is None
        or shape[0] != 1
        or attribute(node, "group", 1) != 1
        or attribute(node, "auto_pad", "NOTSET") != "NOTSET"
        or stride != 1
        or dilation % 2 == 0
        or before + after > dilation * (width - 1)
    ):
        return None
    taps = 3 if width == 3 else TILE
    blocks = -(-width // taps)
    saved = width - blocks * (TILE + taps - 1) / TILE
    if inputs * outputs * saved < _COST * (inputs + outputs):
        return None
    if bias is None:
        bias = np.zeros(outputs, np.float32)
    shorter = dilation * (width - 1) - before - after
    return _Filter(node, weight, bias, taps, blocks, dilation, before, shorter)


def _transforms(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the transforms of inputs, taps and outputs.

    Returns:
        (products, products), (products, taps) and (4, products).
    """
    products = TILE + taps - 1

    def powers(count: int) -> np.ndarray:
        finite = np.power.outer(_POINTS[: products - 1], range(count))
        return np.vstack([finite, np.eye(count)[-1]])

    of_taps, of_outputs = powers(taps), powers(TILE).T
    # Output i sums tap j times input i + j.
    both = np.einsum("ip,pj->ijp", of_outputs, of_taps).reshape(-1, products)
    wanted = [np.eye(products)[i + j] for i in range(TILE) for j in range(taps)]
    of_inputs = np.linalg.lstsq(both, np.array(wanted), rcond=None)[0]
    scale = np.abs(of_inputs).max(axis=1, keepdims=True)
    return of_inputs / scale, of_taps * scale, of_outputs


def _filtered(editor: Editor, found: _Filter) -> ir.Value:
    outputs, inputs, width = found.weight.shape
    taps, blocks, dilation = found.taps, found.blocks, found.dilation
    of_inputs, of_taps, of_outputs = _transforms(taps)
    products = len(of_inputs)

    kernel = np.zeros((outputs, inputs, blocks * taps))
    kernel[:, :, :width] = found.weight
    kernel = kernel.reshape(outputs, inputs, blocks, taps)
    weight = np.einsum("pj,oibj->poib", of_taps, kernel)
    # What the transform of the outputs turns into ones carries the bias.
    ones = np.linalg.lstsq(of_outputs, np.ones(TILE), rcond=None)[0]
    bias = np.outer(ones, found.bias)

    # The first outputs lie in tiles that start before them, the last in ones whose
    # inputs go beyond the end.
    lead = TILE * (dilation * (TILE - 1) // TILE + 1) if dilation > 1 else 0
    last = dilation * (TILE * (blocks - 1) + products - 1)
    source = found.node.inputs[0]
    # Channels lie along the height, so that the products come first in what follows.
    x = editor.put(
        "Conv",
        editor.put("Unsqueeze", source, editor.ints(1)),
        editor.add_constant(of_inputs[:, None, None].astype(np.float32)),
        strides=[1, TILE],
        dilations=[1, dilation],
        pads=[0, found.padding + lead, 0, last - found.padding],
        kernel_shape=[1, products],
    )
    weight = weight.reshape(products * outputs, inputs, 1, blocks).astype(np.float32)
    y = editor.put(
        "Conv",
        editor.put("Reshape", x, editor.ints(1, products * inputs, 1, -1)),
        derived(editor, found.node.inputs[1], weight),
        editor.add_constant(bias.reshape(-1).astype(np.float32)),
        group=products,
        dilations=[1, dilation],
        kernel_shape=[1, blocks],
    )
    y = editor.put(
        "ConvTranspose",
        editor.put("Reshape", y, editor.ints(1, products, outputs, -1)),
        editor.add_constant(of_outputs.T[:, None, None].astype(np.float32)),
        strides=[1, TILE],
        dilations=[1, dilation],
        kernel_shape=[1, TILE],
    )
    length = editor.put("Shape", source, start=2, end=3)
    end = editor.put("Add", length, editor.ints(lead - found.shorter))
    y = editor.put("Slice", y, editor.ints(lead), end, editor.ints(3))
    return editor.put("Squeeze", y, editor.ints(1))
