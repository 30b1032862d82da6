"""Residual sums and their layer normalizations as one operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    CONTRIB,
    Editor,
    attribute,
    constant,
    is_linear,
    made_by,
    only_user,
    product_of,
    split_operands,
    vector,
)


def apply(editor: Editor) -> int:
    """A residual sum and its normalization become SkipLayerNormalization.

    The bias of the layer whose output is added goes into it: a product, sum and
    normalization are two launches in the place of four. CUDA: counted, not timed.
    """
    count = 0
    for node in editor.nodes("LayerNormalization"):
        operands = _match(node)
        if operands is None:
            continue
        total, (_, gamma, *beta) = node.inputs[0], node.inputs
        # The layer comes behind what it was given, where one can tell.
        residual, layer = sorted(operands, key=lambda x: _bias(x, gamma) is not None)
        bias = _bias(layer, gamma)
        new = editor.add(
            "SkipLayerNormalization",
            residual,
            layer if bias is None else _without_bias(editor, layer),
            gamma,
            beta[0] if beta else editor.add_constant(np.zeros_like(constant(gamma))),
            None if bias is None else editor.add_constant(bias),
            domain=CONTRIB,
            outputs=4,
            epsilon=attribute(node, "epsilon", 1e-5),
        )
        normalized, mean, deviation, added = new.outputs
        mean.name = deviation.name = ""  # which it gives in training alone
        editor.replace(node.outputs[0], normalized)
        editor.replace(total, added)
        count += 1
    return count


def _match(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Values that are added up before a normalization over the last axis."""
    total, gamma = node.inputs[:2]
    add = made_by(total, "Add")
    if add is None or vector(gamma) is None or len(node.outputs) > 1:
        return None
    a, b = add.inputs
    if None in (a.producer(), b.producer(), a.shape, b.shape):
        return None
    rank = len(a.shape)
    if rank not in (2, 3) or attribute(node, "axis", -1) not in (-1, rank - 1):
        return None
    # Neither may be broadcast, which takes an axis of size 1: where one is, the graph
    # has made it, and its size is known.
    if len(b.shape) != rank or any(
        m != n and (isinstance(m, int) or isinstance(n, int))
        for m, n in zip(a.shape, b.shape)
    ):
        return None
    return a, b


def _bias(value: ir.Value, like: ir.Value) -> np.ndarray | None:
    """The bias of the linear layer that gives a value to one node alone."""
    made, bias = made_by(value, "Add", "Gemm"), None
    if made is None or only_user(value) is None:
        return None
    if made.op_type == "Add":
        found = split_operands(made, vector)
        if found is not None and made_by(found[0], "MatMul") is not None:
            bias = found[1]
    elif len(made.inputs) == 3 and is_linear(made):
        bias = vector(made.inputs[2])
    return bias if bias is not None and bias.shape == constant(like).shape else None


def _without_bias(editor: Editor, layer: ir.Value) -> ir.Value:
    made = layer.producer()
    if made.op_type == "Gemm":
        return product_of(editor, made)
    product, _ = split_operands(made, vector)
    return product
