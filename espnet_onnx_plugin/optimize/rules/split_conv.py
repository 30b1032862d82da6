"""Convolutions whose channels go different ways."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    made_by,
    only_user,
)
from espnet_onnx_plugin.optimize.rules.conv1d import derived


def apply(editor: Editor) -> int:
    """A Conv1d whose channels are split becomes one for each part.

    What is added to a part, and the gate that it goes through, can then be fused with
    its convolution. All providers.
    """
    count = 0
    for node in editor.nodes("Split"):
        conv = made_by(node.inputs[0], "Conv")
        parts = _parts(node, conv)
        if parts is None:
            continue
        for output, part in zip(node.outputs, parts):
            parameters = [
                derived(editor, value, constant(value)[part])
                for value in conv.inputs[1:]
            ]
            made = editor.put("Conv", conv.inputs[0], *parameters, **conv.attributes)
            editor.replace(output, made)
        count += 1
    return count


def _parts(node: ir.Node, conv: ir.Node | None) -> list[slice] | None:
    """Channels of each part."""
    if conv is None or only_user(node.inputs[0]) is None:
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
