"""Half precision for GPUs: float16 inside of a graph, float32 at its ends."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnxruntime.transformers.float16 import (
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
)

from espnet_onnx_plugin.bundle.graph_file import save_graph
from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    infer_shapes,
    made_by,
)
from espnet_onnx_plugin.quantize.layers import leading_to
from espnet_onnx_plugin.quantize.lowering import load_rewritten

#: Operators in float32: sums over many values, and the logarithms of probabilities, of
#: which the search adds hundreds up.
_FLOAT32 = ["LogSoftmax", "ReduceSum", "ReduceMean"]

#: Operators before which everything is in float32: float16 holds no spectrum of a
#: waveform, and no position above 2048.
_FLOAT32_BEFORE = {"Log", "Sin", "Cos"}


def to_half(source: Path, target: Path) -> None:
    """Write an exported graph in half precision."""
    model = load_rewritten(source, "cuda")
    # Inferred here, because the converter's own inference takes no more than 2 GiB.
    infer_shapes(model)
    for node in model.graph:
        node.name = node.name or node.outputs[0].name
    half = convert_float_to_float16(
        ir.to_proto(model),
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT32],
        node_block_list=[node.name for node in leading_to(model, _FLOAT32_BEFORE)],
    )
    editor = Editor(ir.from_proto(half))
    _keep_float32(editor)
    save_graph(editor.model, target)


def _keep_float32(editor: Editor) -> None:
    """Take away the casts to float16 and back between two operators in float32.

    The converter puts them around each one, so that a position was rounded after all.
    """
    for node in editor.nodes("Cast"):
        before = made_by(node.inputs[0], "Cast")
        if before is None or "_cast_to_fp16" not in (before.name or ""):
            continue
        if attribute(node, "to", 0) == ir.DataType.FLOAT.value:
            editor.replace(node.outputs[0], before.inputs[0])
    editor.tidy()
