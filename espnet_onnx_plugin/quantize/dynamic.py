"""Dynamic int8: weights of matrix products stored in 8 bits per channel.

Activations are quantized as they come. Convolutions stay in fp32: their dynamic int8
form is many times slower than fp32. The graphs are fused afterwards, since
onnxruntime's quantizer does not know fused operators.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any, Mapping, Optional

import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.derive import derive
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.optimize.fuse import fuse_graph
from espnet_onnx_plugin.runtime.compare import compare
from espnet_onnx_plugin.runtime.data import Source

#: Processors with one of these multiply unsigned by signed bytes without saturating.
_DOT_PRODUCT_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def needs_reduced_range(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this machine's int8 products saturate, so that weights get 7 bits.

    An unknown processor counts as one whose products do: 7 bits are right everywhere.
    """
    try:
        flags = set(Path(cpuinfo).read_text(encoding="utf-8").split())
    except OSError:
        return True
    return not flags & _DOT_PRODUCT_FLAGS


def _is_filterbank(node: onnx.NodeProto) -> bool:
    """Whether a product maps a power spectrum to Mel bands.

    A spectrum spans ten orders of magnitude: in 8 bits its quiet bins, of which the
    logarithm is taken next, are all zero.
    """
    return any(name.endswith(".melmat") for name in node.input)


def quantize_graph(source: Path, target: Path, reduce_range: bool) -> None:
    """Write the int8 form of one ONNX file."""
    nodes = onnx.load(source, load_external_data=False).graph.node
    if any(node.domain for node in nodes):
        raise PluginError(
            f"{source} is optimized or quantized already; give the bundle that was "
            "exported as --model_dir"
        )
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it logs through the root logger
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        plain = Path(work) / target.name
        try:
            quantize_dynamic(
                source,
                plain,
                op_types_to_quantize=["MatMul"],  # it makes these of Gemm first
                nodes_to_exclude=[node.name for node in nodes if _is_filterbank(node)],
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
                use_external_data_format=True,
            )
        finally:
            root.setLevel(level)
        fuse_graph(plain, target, "cpu")


def quantize(model: Bundle, output_dir: Path, source: Optional[Source]) -> Bundle:
    """Write the int8 form of a bundle, with the figures of a comparison.

    Args:
        model: the bundle to quantize.
        output_dir: the new bundle.
        source: audio for the comparison.
    """
    reduce_range = needs_reduced_range()

    def rewrite(role: str, old: Path, new: Path) -> None:
        quantize_graph(old, new, reduce_range)

    def check(bundle: Bundle) -> Mapping[str, Any]:
        return {"quantize": compare(model, bundle, source).as_dict()}

    made_by = dict(
        step="quantize",
        method="dynamic int8 per channel",
        reduce_range=reduce_range,
        onnxruntime=ort.__version__,
    )
    return derive(model, output_dir, made_by, rewrite, check)
