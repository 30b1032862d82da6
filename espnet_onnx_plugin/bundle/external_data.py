"""Names of the files that an ONNX graph reads its weights from, without onnx.

onnxruntime opens whatever a graph names, in the graph's directory and below, and takes
as much of it as the graph says. So the names are looked at before: they stand in
``external_data`` of the tensors, which may be anywhere in the graph, in the graphs
within its nodes, and in its functions.

The numbers of fields are those of ``onnx.proto3``, and the encoding is that of
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError

#: Key of the entry that names a file. Where it stands nowhere, nothing names one.
_LOCATION = b"location"

#: Messages on the way to an entry of ``external_data``, by the field that holds each.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}

#: Messages in each other: as deep as protobuf itself reads.
_DEEPEST = 100

#: A node that holds a compiled engine, or names the file of one: TensorRT runs it.
_ENGINE = b"EPContext"


def refuse_other_files(graph: Path, weights: str | None) -> None:
    """Look at the names of files in a graph.

    Args:
        graph: the file.
        weights: the name that may stand in it; None: none may.

    Raises:
        PluginError: if another one does, or the file is damaged.
    """
    content = graph.read_bytes()
    if _ENGINE in content:
        raise PluginError(
            f"{graph} holds a compiled engine (EPContext), which no export writes; get "
            "the bundle from its author again"
        )
    if _LOCATION not in content:
        return
    try:
        for name in _locations(memoryview(content), "Model", 0):
            if name != (weights or "").encode():
                listed = weights or "none"
                raise PluginError(
                    f"{graph} reads {name.decode(errors='replace')!r}, which is not "
                    f"its file of weights in the manifest ({listed}); get the bundle "
                    "from its author again"
                )
    except ValueError:
        raise PluginError(
            f"{graph} is no ONNX graph, or is damaged; copy the bundle again, or "
            "export it"
        )


def _locations(content: memoryview, message: str, depth: int) -> Iterator[bytes]:
    """Names of files in a message.

    Raises:
        ValueError: if it is none.
    """
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if message == "Entry":
        yield from _of_entry(content)
        return
    below = _FIELDS[message]
    for field, value in _fields(content):
        if field in below and value is not None:
            inner = below[field]
            # Most nodes hold none, which bytes can tell 100 times as fast.
            if inner != "Node" or _LOCATION in bytes(value):
                yield from _locations(value, inner, depth + 1)


def _of_entry(content: memoryview) -> Iterator[bytes]:
    """The name in an entry of a tensor's ``external_data``, a key and a value."""
    fields = [(field, bytes(value or b"")) for field, value in _fields(content)]
    if (1, _LOCATION) in fields:
        values = [value for field, value in fields if field == 2]
        yield from values or [b""]


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and value of each field of a message; None: the value is a number.

    Raises:
        ValueError: if it is cut short or is no message.
    """
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(content, at)
        field, kind = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:
            raise ValueError("no number of a field")
        value = None
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            value, at = content[at : at + size], at + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:  # groups, which ONNX has none of
            raise ValueError("no kind of a field")
        if at > end:
            raise ValueError("cut short")
        yield field, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next thing is."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no number")
