"""Convolutions over time in two dimensions."""

from typing import List, Optional

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.rules.graph import (
    Graph,
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

#: Of one tensor, with parameters or sizes along its channels.
_OF_CHANNELS = ("BatchNormalization", "InstanceNormalization", "Split")

#: Channels from which the blocked kernels are faster: a convolution of one channel to
#: 512, or of 32 to one, takes two to three times as long with them.
MIN_CHANNELS = 16

_HEIGHT = 2

_DERIVED = ".derived"


def lifted(graph: Graph, value: ir.Value) -> ir.Value:
    """A value (batch, channels, time) with an axis for height."""
    return _unsqueezed(value) or graph.once(_unsqueeze, value)


def lowered(graph: Graph, value: ir.Value) -> ir.Value:
    """The reverse of :func:`lifted`."""
    return graph.put("Squeeze", value, graph.ints(_HEIGHT))


def derived(graph: Graph, old: ir.Value, array: np.ndarray) -> ir.Value:
    """A constant that is made of another one and keeps its name for the quantizer."""
    name, _, _ = old.name.partition(_DERIVED)
    return graph.add_constant(array, name + _DERIVED)


def apply(graph: Graph) -> int:
    """Conv1d becomes Conv2d of height 1, and what follows it element by element too.

    onnxruntime's blocked kernels know two dimensions only; between two of them tensors
    stay as they are. CPU.
    """
    count = 0
    for node in graph.nodes("Conv", "Concat", *_ELEMENTWISE, *_OF_CHANNELS):
        if node.op_type == "Conv":
            inputs = _of_convolution(graph, node)
            count += inputs is not None
        else:
            inputs = _of_follower(graph, node)
        if inputs is None:
            continue
        attributes = {name: a.value for name, a in node.attributes.items()}
        if node.op_type == "Conv":
            before, after = attributes.get("pads", [0, 0])
            attributes["pads"] = [0, before, 0, after]
            for name in ("strides", "dilations"):
                attributes[name] = [1, *attributes.get(name, [1])]
            attributes["kernel_shape"] = constant(inputs[1]).shape[2:]
        made = graph.put(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
        for old, new in zip(node.outputs, [made] if len(node.outputs) == 1 else made):
            graph.replace(old, lowered(graph, new))
    graph.sort()
    return count


def _unsqueeze(graph: Graph, value: ir.Value) -> ir.Value:
    return graph.put("Unsqueeze", value, graph.ints(_HEIGHT))


def _unsqueezed(value: Optional[ir.Value]) -> Optional[ir.Value]:
    node = made_by(value, "Squeeze")
    if node is None or len(node.inputs) < 2 or scalar(node.inputs[1]) != _HEIGHT:
        return None
    return node.inputs[0]


def _of_convolution(graph: Graph, node: ir.Node) -> Optional[List[ir.Value]]:
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 3 or min(weight.shape[:2]) < MIN_CHANNELS:
        return None
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    w = derived(graph, node.inputs[1], weight[:, :, None])
    return [lifted(graph, node.inputs[0]), w, *node.inputs[2:]]


def _of_follower(graph: Graph, node: ir.Node) -> Optional[List[ir.Value]]:
    """Inputs of a node that takes what was lifted, if all of them can be."""
    if not any(map(_unsqueezed, node.inputs)):
        return None
    if node.op_type in _OF_CHANNELS:
        if node.op_type == "Split" and attribute(node, "axis", 0) != 1:
            return None
        return [lifted(graph, node.inputs[0]), *node.inputs[1:]]
    if node.op_type == "Concat" and attribute(node, "axis") != 1:
        return None
    inputs: List[ir.Value] = []
    for value in node.inputs:
        if scalar(value) is not None:
            inputs.append(value)
        elif value is not None and value.shape is not None and len(value.shape) == 3:
            inputs.append(lifted(graph, value))
        else:
            return None
    return inputs
