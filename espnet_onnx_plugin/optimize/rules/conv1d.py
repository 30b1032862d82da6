"""Convolutions over time in two dimensions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    made_by,
    scalar,
)

#: Element by element.
_ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div"),
    *("LeakyRelu", "Relu", "Elu", "Selu", "Gelu", "Erf", "Softplus"),
    *("Tanh", "Sigmoid", "Exp", "Neg", "Clip"),
)

#: On one tensor, with parameters or sizes along its channels.
_OF_CHANNELS = ("BatchNormalization", "InstanceNormalization", "Split")

#: Channels from which the blocked kernels are faster: a convolution of one channel to
#: 512, or of 32 to one, takes two to three times as long with them.
MIN_CHANNELS = 16

_HEIGHT = 2

_DERIVED = ".derived"


def lifted(editor: Editor, value: ir.Value) -> ir.Value:
    """A value (batch, channels, time) with an axis for height."""
    return _unsqueezed(value) or editor.once(
        Editor.put, "Unsqueeze", value, editor.ints(_HEIGHT)
    )


def lowered(editor: Editor, value: ir.Value) -> ir.Value:
    """The reverse of :func:`lifted`."""
    return editor.put("Squeeze", value, editor.ints(_HEIGHT))


def derived(editor: Editor, old: ir.Value, array: np.ndarray) -> ir.Value:
    """A constant that is made of another one and keeps its name for the quantizer."""
    name, _, _ = old.name.partition(_DERIVED)
    return editor.add_constant(array, name + _DERIVED)


def apply(editor: Editor) -> int:
    """Conv1d becomes Conv2d of height 1, and what follows it element by element too.

    onnxruntime's blocked kernels know two dimensions only; between two of them tensors
    stay as they are. CPU.
    """
    count = 0
    for node in editor.nodes("Conv", "Concat", *_ELEMENTWISE, *_OF_CHANNELS):
        if node.op_type == "Conv":
            inputs = _of_convolution(editor, node)
            count += inputs is not None
        else:
            inputs = _of_follower(editor, node)
        if inputs is None:
            continue
        attributes = {name: a.value for name, a in node.attributes.items()}
        if node.op_type == "Conv":
            before, after = attributes.get("pads", [0, 0])
            attributes["pads"] = [0, before, 0, after]
            for name in ("strides", "dilations"):
                attributes[name] = [1, *attributes.get(name, [1])]
            attributes["kernel_shape"] = constant(inputs[1]).shape[2:]
        made = editor.add(
            node.op_type, *inputs, outputs=len(node.outputs), **attributes
        )
        for old, new in zip(node.outputs, made.outputs):
            editor.replace(old, lowered(editor, new))
    return count


def _unsqueezed(value: ir.Value | None) -> ir.Value | None:
    node = made_by(value, "Squeeze")
    if node is None or len(node.inputs) < 2 or scalar(node.inputs[1]) != _HEIGHT:
        return None
    return node.inputs[0]


def _of_convolution(editor: Editor, node: ir.Node) -> list[ir.Value] | None:
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 3 or min(weight.shape[:2]) < MIN_CHANNELS:
        return None
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    w = derived(editor, node.inputs[1], weight[:, :, None])
    return [lifted(editor, node.inputs[0]), w, *node.inputs[2:]]


def _of_follower(editor: Editor, node: ir.Node) -> list[ir.Value] | None:
    """Inputs of a node that takes what was lifted, if all of them can be."""
    if not any(map(_unsqueezed, node.inputs)):
        return None
    if node.op_type in _OF_CHANNELS:
        if node.op_type == "Split" and attribute(node, "axis", 0) != 1:
            return None
        return [lifted(editor, node.inputs[0]), *node.inputs[1:]]
    if node.op_type == "Concat" and attribute(node, "axis", 0) != 1:
        return None
    inputs: list[ir.Value] = []
    for value in node.inputs:
        if scalar(value) is not None:
            inputs.append(value)
        elif value is not None and value.shape is not None and len(value.shape) == 3:
            inputs.append(lifted(editor, value))
        else:
            return None
    return inputs
