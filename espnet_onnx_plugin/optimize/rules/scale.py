"""A product scaled by a number is a product by scaled weights."""

from __future__ import annotations

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    biased_linear,
    constant,
    only_user,
    scalar,
    split_operands,
)


def apply(editor: Editor) -> int:
    """A number that multiplies a linear layer's output goes into weights and bias.

    The half steps of macaron feed-forwards, the square root of the model's size after
    an input layer. All providers.
    """
    count = 0
    for node in editor.nodes("Mul"):
        found = split_operands(node, scalar)
        if found is None or only_user(found[0]) is None:
            continue
        layer = biased_linear(found[0])
        if layer is None:
            continue
        (product, bias), factor = layer, found[1]
        weight = constant(product.inputs[1])
        y = editor.put(
            "MatMul",
            product.inputs[0],
            editor.add_constant((weight * factor).astype(weight.dtype)),
        )
        if bias.any():
            y = editor.put("Add", y, editor.add_constant((bias * factor).astype("f")))
        editor.replace(node.outputs[0], y)
        count += 1
    return count
