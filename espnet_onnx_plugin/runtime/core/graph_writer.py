"""Graphs that the runtime writes by itself, for values that stay on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from espnet_onnx_plugin.packages import import_package

#: Messages of the package onnx, which is there only where a GPU is.
Node: TypeAlias = Any
Described: TypeAlias = Any

#: 18 is the first opset whose reductions take axes as an input, all of them alike.
_OPSET = 18
_IR_VERSION = 8

#: A value of a graph, by name; whatever else is given in its place is a constant.
Operand: TypeAlias = str | int | Sequence[int] | np.ndarray | np.generic

Attribute: TypeAlias = int | Sequence[int]


class GraphWriter:
    """A graph that is written node by node.

    The operators of ONNX are methods, which take and give names of values::

        mean = graph.Div(graph.Add(x, y), np.float32(2))
        graph.output("sums", graph.CumSum(mean, 1), np.float32)

    Raises:
        PluginError: where the package onnx is missing.
    """

    def __init__(self) -> None:
        self._onnx = import_package("onnx", "a search that stays on the device", "onnx")
        self._nodes: list[Node] = []
        self._inputs: dict[str, Described] = {}
        self._outputs: list[Described] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: dict[str, np.ndarray] = {}

    def input(self, name: str, dtype: type | np.dtype) -> str:
        """An input of any shape, added where it is not there yet."""
        self._inputs[name] = self._described(name, dtype)
        return name

    def output(self, name: str, value: str, dtype: type | np.dtype) -> None:
        """Make a value an output."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._described(name, dtype))

    def _code(self, dtype: type | np.dtype) -> int:
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def _described(self, name: str, dtype: type | np.dtype) -> Described:
        return self._onnx.helper.make_tensor_value_info(name, self._code(dtype), None)

    def constant(self, value: Operand) -> str:
        """Name of a constant: integers are int64, else the type is the array's own."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = array.dtype.str, array.shape, array.tobytes()
        name = self._constants.setdefault(key, f"c{len(self._constants)}")
        self._arrays[name] = array
        return name

    def __getattr__(self, op: str) -> Callable[..., str]:
        if not op[0].isupper():
            raise AttributeError(op)
        return partial(self._node, op)

    def _node(self, op: str, *operands: Operand, **attributes: Attribute) -> str:
        return self._nodes_of(op, operands, 1, **attributes)[0]

    def _nodes_of(
        self,
        op: str,
        operands: Sequence[Operand],
        outputs: int,
        **attributes: Attribute,
    ) -> list[str]:
        names = [x if isinstance(x, str) else self.constant(x) for x in operands]
        made = [f"v{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(op, names, made, **attributes))
        return made

    def top(self, value: str, count: int, largest: bool = True) -> tuple[str, str]:
        """The largest of the last axis, or the smallest, in order, and their places.

        Of equal ones those come first that stand first.
        """
        operands = value, [count]
        made = self._nodes_of("TopK", operands, 2, axis=-1, largest=int(largest))
        return made[0], made[1]

    def split(self, value: str, count: int, axis: int) -> list[str]:
        """So many parts of a value along an axis, all of a size."""
        return self._nodes_of("Split", (value,), count, axis=axis, num_outputs=count)

    def cast(self, value: str, dtype: type) -> str:
        """A value in another type."""
        return self.Cast(value, to=self._code(dtype))

    def model(self) -> bytes:
        """The model, as a file of it is written."""
        make, to_tensor = self._onnx.helper, self._onnx.numpy_helper.from_array
        graph = make.make_graph(
            self._nodes,
            "graph",
            list(self._inputs.values()),
            self._outputs,
            [to_tensor(array, name) for name, array in self._arrays.items()],
        )
        opset = make.make_opsetid("", _OPSET)
        model = make.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        return model.SerializeToString()
