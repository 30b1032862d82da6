"""Convolutions whose channels go different ways."""

from typing import List, Optional

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.rules.conv1d import derived
from espnet_onnx_plugin.optimize.rules.graph import (
    Graph,
    attribute,
    constant,
    is_private,
    made_by,
)


def apply(graph: Graph) -> int:
    """A Conv1d whose channels are split becomes one for each part.

    What is added to a part, and the gate that it goes through, can then be fused with
    its convolution. All providers.
    """
    count = 0
    for node in graph.nodes("Split"):
        conv = made_by(node.inputs[0], "Conv")
        parts = _parts(node, conv)
        if parts is None:
            continue
        attributes = {name: a.value for name, a in conv.attributes.items()}
        for output, part in zip(node.outputs, parts):
            parameters = [
                derived(graph, value, constant(value)[part])
                for value in conv.inputs[1:]
            ]
            made = graph.put("Conv", conv.inputs[0], *parameters, **attributes)
            graph.replace(output, made)
        count += 1
    graph.sort()
    return count


def _parts(node: ir.Node, conv: Optional[ir.Node]) -> Optional[List[slice]]:
    """Channels of each part."""
    if conv is None or not is_private(node.inputs[0]):
        return None
    arrays = [constant(value) for value in conv.inputs[1:]]
    if any(array is None for array in arrays) or arrays[0].ndim != 3:
        return None
    if attribute(node, "axis", 0) != 1 or attribute(conv, "group", 1) != 1:
        return None
    channels, count = len(arrays[0]), len(node.outputs)
    sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if sizes is None:
        if len(node.inputs) > 1 or channels % count:
            return None
        sizes = np.full(count, channels // count)
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes.tolist())]
