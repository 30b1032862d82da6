"""Masks around a softmax as one bias for all layers."""

import numpy as np

from espnet_onnx_plugin.optimize.rules.graph import Graph, made_by, scalar


def apply(graph: Graph) -> int:
    """masked_fill before and after a softmax becomes one bias, made once a graph.

    Exactly equal in every row that has one valid key, since the exponential of the
    lowest float is 0; a row without any gets some finite mean instead of zeros. All
    providers.
    """
    count = 0
    for node in graph.nodes("Softmax"):
        before = made_by(node.inputs[0], "Where")
        if before is None or node.outputs[0].is_graph_output():
            continue
        mask, lowest, scores = before.inputs
        if (scalar(lowest) or 0.0) > -1e30:
            continue
        bias = graph.once(
            ("mask bias", mask),
            lambda: graph.put(
                "Where",
                mask,
                lowest,
                graph.add_constant(np.zeros((), np.float32)),
            ),
        )
        softmax = graph.put(
            "Softmax",
            graph.put("Add", scores, bias),
            axis=node.attributes["axis"].value,
        )
        for user in [usage.node for usage in node.outputs[0].uses()]:
            if (
                user.op_type == "Where"
                and user.inputs[0] is mask
                and scalar(user.inputs[1]) == 0.0
            ):
                graph.replace(user.outputs[0], softmax)
        graph.replace(node.outputs[0], softmax)
        count += 1
    return count
