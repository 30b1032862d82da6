"""Half precision for GPUs: float16 inside of a graph, float32 at its ends."""

from pathlib import Path

import onnx_ir as ir
from onnxruntime.transformers.float16 import (
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
)

from espnet_onnx_plugin.bundle.graph_file import save_graph
from espnet_onnx_plugin.optimize.rules.graph import with_shapes
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
    # Inferred here, because the converter's own inference takes no more than 2 GiB.
    model = ir.to_proto(with_shapes(load_rewritten(source, "cuda")))
    for node in model.graph.node:
        node.name = node.name or node.output[0]
    before = leading_to(model.graph, _FLOAT32_BEFORE)
    half = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT32],
        node_block_list=[n.name for n in model.graph.node if n.output[0] in before],
    )
    save_graph(half, target)
