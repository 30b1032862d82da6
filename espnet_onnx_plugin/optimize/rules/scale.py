"""A product scaled by a number is a product by scaled weights."""

from espnet_onnx_plugin.optimize.rules.graph import (
    Graph,
    biased_linear,
    is_private,
    scalar,
    split_operands,
)


def apply(graph: Graph) -> int:
    """A number that multiplies a linear layer's output goes into weights and bias.

    The half steps of macaron feed-forwards, the square root of the model's size after
    an input layer. All providers.
    """
    count = 0
    for node in graph.nodes("Mul"):
        found = split_operands(node, scalar)
        if found is None or not is_private(found[0]):
            continue
        layer = biased_linear(found[0])
        if layer is None:
            continue
        (product, bias), factor = layer, found[1]
        weight = product.inputs[1].const_value.numpy()
        y = graph.put(
            "MatMul",
            product.inputs[0],
            graph.add_constant((weight * factor).astype(weight.dtype)),
        )
        if bias.any():
            y = graph.put("Add", y, graph.add_constant((bias * factor).astype("f")))
        graph.replace(node.outputs[0], y)
        count += 1
    return count
