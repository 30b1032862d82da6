"""Linear layers that read the same rows."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import Editor, attribute, constant


def apply(editor: Editor) -> int:
    """Gemms of one input become one Gemm and a Split.

    The queries, keys and values of a decoding step: a step's products wait for their
    weights, which come faster in one piece. All providers.
    """
    groups: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in editor.nodes("Gemm"):
        if _weights(node) is not None:
            groups[node.inputs[0]].append(node)
    count = 0
    for x, nodes in groups.items():
        if len(nodes) < 2:
            continue
        weights, biases = zip(*map(_weights, nodes))
        y = editor.put(
            "Gemm",
            x,
            editor.add_constant(np.concatenate(weights)),
            editor.add_constant(np.concatenate(biases)),
            transB=1,
        )
        sizes = editor.ints(*map(len, biases))
        parts = editor.add("Split", y, sizes, outputs=len(nodes), axis=-1)
        for node, part in zip(nodes, parts.outputs):
            editor.replace(node.outputs[0], part)
        count += 1
    return count


def _weights(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight (out, in) and bias (out,) of a Gemm that is a linear layer."""
    if attribute(node, "transA", 0) or len(node.inputs) < 3:
        return None
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2])
    if weight is None or bias is None or bias.ndim != 1:
        return None
    weight = weight if attribute(node, "transB", 0) else weight.T
    return (weight, bias) if len(weight) == len(bias) else None
