"""8-bit products that give the same on every processor.

Int8 graphs multiply unsigned activations by signed weights. Without an instruction that
does so (VNNI, AMX), onnxruntime's kernels for AVX2 and AVX-512 add pairs of products in
16 bits, which saturates with weights of more than 7 bits: scores of a trained model
moved by 0.10 on average, against 0.006 without. By an option onnxruntime makes such
weights unsigned too and widens both sides to 16 bits before it multiplies. In the sizes
of an encoder that takes two and a half times as long, about as long as fp32.
"""

from __future__ import annotations

import functools
import logging

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Manifest
from espnet_onnx_plugin.errors import PluginError

logger = logging.getLogger(__name__)

#: onnxruntime's option for it. It knows every operator of ours (MatMulIntegerToFloat,
#: DynamicQuantizeMatMul, QLinearConv, DynamicQuantizeLSTM); MatMulNBits does not
#: saturate. It takes only weights that one node reads, in the graph that holds them.
_WIDE_PRODUCTS = "session.x64quantprecision"

#: The arithmetic of int8 bundles where it is in use.
WIDE = "int8 in 16 bits"

#: A graph of MatMulInteger: a, uint8 (rows, 2), by the constant b = [[127], [127]].
#: Made ahead, because the runtime has no package onnx. Its zero points are given:
#: without them onnxruntime 1.23 aborts where it makes the weights unsigned.
PROBE = (
    b'\x08\x07\x12\x00:u\n \n\x01a\n\x01b\n\x02za\n\x02zb\x12\x01c"\rMatMulInteger'
    b"\x12\x00*\r\x08\x02\x08\x01\x10\x03B\x01bJ\x02\x7f\x7f*\t\x10\x02B\x02zaJ"
    b"\x01\x00*\t\x10\x03B\x02zbJ\x01\x00Z\x14\n\x01a\x12\x0f\n\r\x08\x02\x12\t\n\x03\x12"
    b"\x01m\n\x02\x08\x02b\x14\n\x01c\x12\x0f\n\r\x08\x06\x12\t\n\x03\x12\x01m\n\x02\x08"
    b"\x01B\x04\n\x00\x10\r"
)


def _is_exact(wide: bool) -> bool:
    """Whether the largest products come out right, of one row and of several."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(_WIDE_PRODUCTS, str(int(wide)))
    session = ort.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    products = [
        session.run(None, {"a": np.full((rows, 2), 255, np.uint8)})[0]
        for rows in (1, 8)
    ]
    return all((product == 2 * 255 * 127).all() for product in products)


@functools.lru_cache(maxsize=None)
def products_saturate() -> bool:
    """Whether 8-bit products saturate on this processor, under this onnxruntime.

    Found by computing some: what tells of the processor's instructions differs between
    systems, and emulators and containers show those of the machine around them.

    Raises:
        PluginError: if onnxruntime's option does not help.
    """
    if _is_exact(wide=False):
        return False
    if not _is_exact(wide=True):
        raise PluginError(
            "8-bit products saturate on this processor, and onnxruntime "
            f"{ort.__version__} cannot avoid that; use the optimized or fp32 bundle"
        )
    return True


def keep_exact(options: ort.SessionOptions) -> None:
    """Make sure that a session's 8-bit products do not saturate."""
    if products_saturate():
        options.add_session_config_entry(_WIDE_PRODUCTS, "1")


def arithmetic(manifest: Manifest) -> str:
    """Name of the arithmetic that a bundle's products are computed in, here."""
    exact = manifest.precision != "int8" or manifest.reduced_range
    return manifest.precision if exact or not products_saturate() else WIDE


def tell_arithmetic(manifest: Manifest) -> None:
    """Say, once, where a bundle runs slower than on the processors that it is for."""
    if arithmetic(manifest) == WIDE:
        _tell_wide()


@functools.lru_cache(maxsize=None)
def _tell_wide() -> None:
    logger.warning(
        "8-bit products saturate on this processor: those of this int8 bundle are "
        "computed in 16 bits, slower, with the same result as elsewhere; quantized on "
        "this machine, it would have 7-bit weights, which are fast here"
    )
