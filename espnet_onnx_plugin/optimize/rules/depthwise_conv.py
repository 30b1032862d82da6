"""Depthwise convolutions over time in two dimensions."""

from __future__ import annotations

from espnet_onnx_plugin.optimize.editor import Editor, attribute, constant


def apply(editor: Editor) -> int:
    """Depthwise Conv1d becomes Conv2d of height 1, between (batch, 1, time, channels).

    onnxruntime's blocked kernels know two dimensions only, and take and give channels
    last at no cost. CPU.
    """
    count = 0
    for node in editor.nodes("Conv"):
        weight = constant(node.inputs[1])
        groups = attribute(node, "group", 1)
        if weight is None or weight.ndim != 3 or groups == 1:
            continue
        if weight.shape[:2] != (groups, 1):
            continue
        before, after = attribute(node, "pads", [0, 0])
        height = editor.ints(1)
        x = editor.put("Transpose", node.inputs[0], perm=[0, 2, 1])
        x = editor.put("Unsqueeze", x, height)
        x = editor.put("Transpose", x, perm=[0, 3, 1, 2])
        y = editor.put(
            "Conv",
            x,
            editor.add_constant(weight[:, :, None]),
            *node.inputs[2:],
            group=groups,
            pads=[0, before, 0, after],
            strides=[1, *attribute(node, "strides", [1])],
            dilations=[1, *attribute(node, "dilations", [1])],
            kernel_shape=[1, weight.shape[2]],
        )
        y = editor.put("Squeeze", editor.put("Transpose", y, perm=[0, 2, 3, 1]), height)
        editor.replace(node.outputs[0], editor.put("Transpose", y, perm=[0, 2, 1]))
        count += 1
    return count
