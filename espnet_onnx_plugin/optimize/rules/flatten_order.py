"""The order in which an image is flattened for a linear layer."""

from espnet_onnx_plugin.optimize.rules.graph import (
    Graph,
    attribute,
    linear,
    made_by,
    tail,
    users,
)


def apply(graph: Graph) -> int:
    """After convolutions, (channels, bands) flatten as (bands, channels).

    The rows of the linear layer after it are permuted to match. onnxruntime's blocked
    convolutions give channels last at no cost, where the transpose to time first costs
    a pass over the largest tensor of a subsampling. CPU.
    """
    count = 0
    for transpose in graph.nodes("Transpose"):
        if list(attribute(transpose, "perm", [])) != [0, 2, 1, 3]:
            continue
        x = transpose.inputs[0]
        if made_by(x, "Conv", "Relu") is None or x.shape is None:
            continue
        channels, flat = x.shape[1], transpose.outputs[0]
        layers = [layer for user in users(flat) for layer in users(user.outputs[0])]
        if not isinstance(channels, int) or len(layers) != 1 or flat.is_graph_output():
            continue
        (reshape,), (layer,) = users(flat), layers
        if linear(layer.outputs[0]) is None or reshape.op_type != "Reshape":
            continue
        weight = layer.inputs[1].const_value.numpy()
        size, width = weight.shape
        if reshape.inputs[1].shape is None or list(reshape.inputs[1].shape) != [3]:
            continue
        if tail(reshape.inputs[1], 1) != (size,) or size % channels:
            continue
        rows = weight.reshape(channels, size // channels, width).swapaxes(0, 1)
        y = graph.put("Transpose", x, perm=[0, 2, 3, 1])
        y = graph.put("Reshape", y, reshape.inputs[1])
        y = graph.put("MatMul", y, graph.add_constant(rows.reshape(size, width)))
        graph.replace(layer.outputs[0], y)
        count += 1
    return count
