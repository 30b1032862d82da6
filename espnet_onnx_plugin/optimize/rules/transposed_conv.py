"""Transposed convolutions as convolutions that give several frames at once."""

from __future__ import annotations

import numpy as np

from espnet_onnx_plugin.optimize.editor import Editor, attribute, constant
from espnet_onnx_plugin.optimize.rules.conv1d import (
    MIN_CHANNELS,
    derived,
    lifted,
    lowered,
)

#: The end of an axis, as Slice has it.
_END = np.iinfo(np.int64).max


def apply(editor: Editor) -> int:
    """ConvTranspose1d becomes Conv2d whose channels are those of ``stride`` frames.

    Shi et al., "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network", 2016. With channels last the frames lie in
    their order already. Blocked kernels and int8 know no transposed convolution. CPU.
    """
    count = 0
    for node in editor.nodes("ConvTranspose"):
        weight = constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is None or weight.ndim != 3 or len(node.inputs) > 2 and bias is None:
            continue
        if (
            min(weight.shape[:2]) < MIN_CHANNELS
            or attribute(node, "group", 1) != 1
            or list(attribute(node, "dilations", [1])) != [1]
            or attribute(node, "auto_pad", "NOTSET") != "NOTSET"
            or "output_shape" in node.attributes
        ):
            continue
        (stride,) = attribute(node, "strides", [1])
        inputs, outputs, width = weight.shape
        # Zeros fill the last of the input's frames on which an output's depends.
        taps = -(-width // stride)
        kernel = np.zeros((inputs, outputs, taps * stride), np.float32)
        kernel[:, :, :width] = weight
        first, cut = attribute(node, "pads", [0, 0])
        cut += taps * stride - width - attribute(node, "output_padding", [0])[0]
        if cut < 0:
            continue
        # y[stride * t + i] = sum over q of kernel[stride * q + i] x[t - q]
        kernel = kernel.reshape(inputs, outputs, taps, stride)[:, :, ::-1]
        kernel = kernel.transpose(3, 1, 0, 2).reshape(-1, inputs, 1, taps)
        parameters = [derived(editor, node.inputs[1], kernel)]
        if bias is not None:
            parameters.append(derived(editor, node.inputs[2], np.tile(bias, stride)))
        y = editor.put(
            "Conv",
            lifted(editor, node.inputs[0]),
            *parameters,
            pads=[0, taps - 1, 0, taps - 1],
            kernel_shape=[1, taps],
        )
        y = editor.put("Transpose", y, perm=[0, 2, 3, 1])
        y = editor.put("Reshape", y, editor.ints(0, 1, -1, outputs))
        if first or cut:
            ends = editor.ints(first), editor.ints(-cut if cut else _END)
            y = editor.put("Slice", y, *ends, editor.ints(2))
        y = editor.put("Transpose", y, perm=[0, 3, 1, 2])
        editor.replace(node.outputs[0], lowered(editor, y))
        count += 1
    return count
