"""Transposes between (batch, time, channels) and (batch, channels, time)."""

from __future__ import annotations

import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    made_by,
    scalar,
)

_SWAP = [0, 2, 1]

#: Element by element, whatever the order of the axes.
_ELEMENTWISE = ("Add", "Mul", "Sub", "Div", "Sigmoid", "Relu", "Tanh", "Selu", "Clip")


def apply(editor: Editor) -> int:
    """Transposes move down past element-wise nodes and Split, and cancel in pairs.

    So GLU halves its tensor before it is transposed, and an activation leaves no
    transpose beside a product, which onnxruntime would fuse into a slower one. All
    providers.
    """
    count = 0
    # One pass, in order: what a node reads is final when its turn comes, and what a
    # move makes cannot move again, for it reads something that no transpose gives.
    for node in editor.nodes("Transpose", "Split", *_ELEMENTWISE):
        if _move(editor, node):
            editor.graph.remove(node, safe=True)
            count += 1
    return count


def _move(editor: Editor, node: ir.Node) -> bool:
    if node.op_type == "Transpose":
        source = _unswapped(node.inputs[0])
        if source is None or list(attribute(node, "perm", [])) != _SWAP:
            return False
        editor.replace(node.outputs[0], source)
        return True
    sources = [v if _is_number(v) else _unswapped(v) for v in node.inputs]
    attributes = {name: a.value for name, a in node.attributes.items()}
    if node.op_type == "Split":
        if len(node.inputs) > 1 or attributes.get("axis", 0) != 1:
            return False
        attributes["axis"] = 2
    if any(source is None for source in sources) or all(map(_is_number, node.inputs)):
        return False
    made = editor.add(node.op_type, *sources, outputs=len(node.outputs), **attributes)
    for old, new in zip(node.outputs, made.outputs):
        editor.replace(old, editor.put("Transpose", new, perm=_SWAP))
    return True


def _is_number(value: ir.Value | None) -> bool:
    return value is None or scalar(value) is not None


def _unswapped(value: ir.Value | None) -> ir.Value | None:
    node = made_by(value, "Transpose")
    if node is None or list(attribute(node, "perm", [])) != _SWAP:
        return None
    return node.inputs[0]
