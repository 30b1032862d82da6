"""The order in which an image is flattened for a linear layer."""

from __future__ import annotations

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    linear,
    made_by,
    tail,
)


def apply(editor: Editor) -> int:
    """After convolutions, (channels, bands) flatten as (bands, channels).

    The rows of the linear layer after it are permuted to match. onnxruntime's blocked
    convolutions give channels last at no cost, where the transpose to time first costs
    a pass over the largest tensor of a subsampling. CPU.
    """
    count = 0
    for transpose in editor.nodes("Transpose"):
        if list(attribute(transpose, "perm", [])) != [0, 2, 1, 3]:
            continue
        x = transpose.inputs[0]
        if made_by(x, "Conv", "Relu") is None or x.shape is None:
            continue
        channels, flat = x.shape[1], transpose.outputs[0]
        layers = [
            layer for user in flat.consumers() for layer in user.outputs[0].consumers()
        ]
        if not isinstance(channels, int) or len(layers) != 1 or flat.is_graph_output():
            continue
        (reshape,), (layer,) = flat.consumers(), layers
        if linear(layer.outputs[0]) is None or reshape.op_type != "Reshape":
            continue
        weight = constant(layer.inputs[1])
        size, width = weight.shape
        if reshape.inputs[1].shape is None or list(reshape.inputs[1].shape) != [3]:
            continue
        if tail(reshape.inputs[1], 1) != (size,) or size % channels:
            continue
        rows = weight.reshape(channels, size // channels, width).swapaxes(0, 1)
        y = editor.put("Transpose", x, perm=[0, 2, 3, 1])
        y = editor.put("Reshape", y, reshape.inputs[1])
        y = editor.put("MatMul", y, editor.add_constant(rows.reshape(size, width)))
        editor.replace(layer.outputs[0], y)
        count += 1
    return count
