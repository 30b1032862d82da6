"""Graphs that the runtime writes by itself, for values that stay on a device.

A model of ONNX is a protocol buffer of a few messages, written here field by field: the
runtime has no package onnx. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

#: ONNX's codes of element types.
ELEMENT_TYPES = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int32): 6,
    np.dtype(np.int64): 7,
    np.dtype(np.bool_): 9,
    np.dtype(np.float16): 10,
    np.dtype(np.float64): 11,
}

#: 18 is the first opset whose reductions take axes as an input, all of them alike.
_OPSET = 18
_IR_VERSION = 8

#: A value of a graph, by name; whatever else is given in its place is a constant.
Operand: TypeAlias = str | int | Sequence[int] | np.ndarray | np.generic

Attribute: TypeAlias = int | Sequence[int]


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A message of fields, each a number and a value."""
    encoded = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            encoded += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(encoded)


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return _message((1, name), (3, value), (20, 2))
    return _message((1, name), *((8, v) for v in value), (20, 7))


class GraphWriter:
    """A graph that is written node by node.

    The operators of ONNX are methods, which take and give names of values::

        mean = graph.Div(graph.Add(x, y), np.float32(2))
        graph.output("sums", graph.CumSum(mean, 1), np.float32)
    """

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._inputs: dict[str, bytes] = {}
        self._outputs: list[bytes] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, dtype: type | np.dtype) -> str:
        """An input of any shape, added where it is not there yet."""
        self._inputs[name] = self._described(name, dtype)
        return name

    def output(self, name: str, value: str, dtype: type | np.dtype) -> None:
        """Make a value an output."""
        self._nodes.append(_message((1, value), (2, name), (4, "Identity")))
        self._outputs.append(self._described(name, dtype))

    @staticmethod
    def _described(name: str, dtype: type | np.dtype) -> bytes:
        tensor = _message((1, ELEMENT_TYPES[np.dtype(dtype)]))
        return _message((1, name), (2, _message((1, tensor))))

    def constant(self, value: Operand) -> str:
        """Name of a constant: integers are int64, else the type is the array's own."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = array.dtype.str, array.shape, array.tobytes()
        return self._constants.setdefault(key, f"c{len(self._constants)}")

    def __getattr__(self, op: str) -> Callable[..., str]:
        if not op[0].isupper():
            raise AttributeError(op)
        return partial(self._node, op)

    def _node(self, op: str, *operands: Operand, **attributes: Attribute) -> str:
        return self._nodes_of(op, operands, attributes, 1)[0]

    def _nodes_of(
        self,
        op: str,
        operands: Sequence[Operand],
        attributes: Mapping[str, Attribute],
        outputs: int,
    ) -> list[str]:
        names = [x if isinstance(x, str) else self.constant(x) for x in operands]
        made = [f"v{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(
            _message(
                *((1, name) for name in names),
                *((2, name) for name in made),
                (4, op),
                *((5, _attribute(*each)) for each in attributes.items()),
            )
        )
        return made

    def top(self, value: str, count: int, largest: bool = True) -> tuple[str, str]:
        """The largest of the last axis, or the smallest, in order, and their places.

        Of equal ones those come first that stand first.
        """
        attributes = dict(axis=-1, largest=int(largest))
        values, places = self._nodes_of("TopK", (value, [count]), attributes, 2)
        return values, places

    def cast(self, value: str, dtype: type) -> str:
        """A value in another type."""
        return self.Cast(value, to=ELEMENT_TYPES[np.dtype(dtype)])

    def _tensors(self) -> Iterator[bytes]:
        for (dtype, shape, data), name in self._constants.items():
            dims = ((1, size) for size in shape)
            kind = ELEMENT_TYPES[np.dtype(dtype)]
            yield _message(*dims, (2, kind), (8, name), (9, data))

    def model(self) -> bytes:
        """The model, as a file of it is written."""
        graph = _message(
            *((1, node) for node in self._nodes),
            (2, "graph"),
            *((5, tensor) for tensor in self._tensors()),
            *((11, one) for one in self._inputs.values()),
            *((12, one) for one in self._outputs),
        )
        opset = _message((1, ""), (2, _OPSET))
        return _message((1, _IR_VERSION), (7, graph), (8, opset))
