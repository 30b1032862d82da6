"""The editor of graphs: how rules and the quantizer find, make and replace nodes.

A graph is an ``onnx_ir.Model``: nodes know their values and these the nodes that make
and take them. Constants are initializers, whose numbers :func:`constant` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

#: onnxruntime's own operators.
CONTRIB = "com.microsoft"

T = TypeVar("T")


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes of what a graph computes; it may hold more than 2 GiB."""
    ShapeInferencePass(check_type=False, strict_mode=False)(model)


class Editor:
    """A graph under change.

    Nodes may be made in any order: :meth:`tidy` sorts them into their places.
    """

    def __init__(self, model: ir.Model):
        self.model = model
        self.graph = model.graph
        self._shared: dict[Hashable, Any] = {}
        self._names = set(ir.convenience.create_value_mapping(model.graph))
        self._count = 0

    def nodes(self, *op_types: str) -> list[ir.Node]:
        """The nodes of these operators, in order."""
        return [node for node in self.graph if node.op_type in op_types]

    def add(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        outputs: int = 1,
        **attributes: float | str | Sequence[int] | ir.Attr,
    ) -> ir.Node:
        """Add a node."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs)
        for value in node.outputs:
            value.name = self._free(op_type)
        self.graph.append(node)
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        return node

    def put(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: float | str | Sequence[int] | ir.Attr,
    ) -> ir.Value:
        """Add a node with one output, and return that."""
        return self.add(op_type, *inputs, domain=domain, **attributes).outputs[0]

    def add_constant(self, array: np.ndarray, name: str = "constant") -> ir.Value:
        """Add an initializer, under a name or, where that is taken, one like it."""
        name = self._free(name)
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """An int64 vector; equal ones are one initializer."""
        return self.once(_ints, *numbers)

    def once(self, make: Callable[..., T], *args: Hashable, **options: Hashable) -> T:
        """Make something once for all layers that ask for the same.

        Args:
            make: a function of the editor and the arguments, such as ``Editor.put``.
        """
        key = (make, args, tuple(options.items()))
        if key not in self._shared:
            self._shared[key] = make(self, *args, **options)
        return self._shared[key]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every user of a value, the graph's outputs too, have another one.

        The new value takes the old one's name, unless the graph's users know it by its
        own.
        """
        if new.type is None:
            new.type, new.shape = old.type, old.shape
        is_known = new.producer() is None or new.is_graph_output()
        if old.is_graph_output() or not is_known:
            old.name, new.name = new.name, old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def remove_unused(self) -> None:
        """Drop nodes and initializers that no output needs."""
        self._shared.clear()  # some of it may go
        for node in reversed(self.graph):
            if not any(v.uses() or v.is_graph_output() for v in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def tidy(self) -> None:
        """Drop what no output needs, and put nodes after those that they depend on."""
        self.remove_unused()
        self.graph.sort()

    def choose(
        self,
        condition: ir.Value,
        values: Mapping[ir.Value, ir.Value],
        new: Sequence[ir.Node],
        old: Sequence[ir.Node],
    ) -> None:
        """Let values take the places of others only where a condition holds.

        Args:
            condition: bool.
            values: new values by old ones, both of float32.
            new: the nodes that give the new values, and nothing else.
            old: likewise those of the old ones.
        """
        choice = self.add("If", condition, outputs=len(values))
        for value, chosen in zip(values, choice.outputs):
            self.replace(value, chosen)
        for name, nodes, outputs in (
            ("then_branch", new, values.values()),
            ("else_branch", old, values),
        ):
            branch = self._branch(name, nodes, list(outputs))
            choice.attributes[name] = ir.AttrGraph(name, branch)
        self._shared.clear()  # some of it lies in a branch

    def _branch(
        self, name: str, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]
    ) -> ir.Graph:
        """Move nodes into a graph of their own.

        Integer weights lie in it, where onnxruntime can make them unsigned.
        """
        self.graph.remove(nodes)
        weights = [
            self.graph.initializers.pop(value.name)
            for value in (value for node in nodes for value in node.inputs)
            if (array := constant(value)) is not None and array.dtype == np.int8
        ]
        for value in outputs:
            value.type = ir.TensorType(ir.DataType.FLOAT)
        return ir.Graph([], outputs, nodes=nodes, initializers=weights, name=name)

    def _free(self, name: str) -> str:
        """A name that no value has, or one like it."""
        free = name
        while free in self._names:
            self._count += 1
            free = f"{name}_{self._count}"
        self._names.add(free)
        return free


def _ints(editor: Editor, *numbers: int) -> ir.Value:
    return editor.add_constant(np.array(numbers, np.int64))


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of an initializer, or None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number of an initializer that holds one, or None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that gives a value, if it is of one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def only_user(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The node that alone takes a value, and once, if it is of one of these operators.

    Of any, where none is named; None where a graph's output is the value, too.
    """
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    (node,) = value.consumers()
    return node if not op_types or node.op_type in op_types else None


def split_operands(
    node: ir.Node, wanted: Callable[[ir.Value | None], T | None]
) -> tuple[ir.Value, T] | None:
    """Tell the operands of a commutative node apart.

    Returns:
        The one that is not wanted, and what ``wanted`` says of the other; None where it
        says None of both.
    """
    a, b = node.inputs
    for one, other in ((b, a), (a, b)):
        found = wanted(one)
        if found is not None:
            return other, found
    return None


def attribute(node: ir.Node, name: str, default: T) -> T:
    """An attribute's value."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def tail(shape: ir.Value | None, count: int) -> tuple[int, ...] | None:
    """The last numbers of a tensor that holds a shape, if they are constant."""
    numbers: list[int] = []
    node = made_by(shape, "Concat")
    for part in reversed([shape] if node is None else node.inputs):
        array = constant(part)
        if array is None:
            break
        numbers = array.reshape(-1).tolist() + numbers
        if len(numbers) >= count:
            return tuple(numbers[-count:])
    return None


def linear(value: ir.Value | None) -> ir.Node | None:
    """The MatMul by a constant matrix that gives a value, or None."""
    node = made_by(value, "MatMul")
    weight = constant(node.inputs[1]) if node is not None else None
    return node if weight is not None and weight.ndim == 2 else None


def biased_linear(value: ir.Value | None) -> tuple[ir.Node, np.ndarray] | None:
    """The linear MatMul and its bias (zeros where it has none), private to a value."""
    node = linear(value)
    if node is not None:
        return node, np.zeros(constant(node.inputs[1]).shape[1], np.float32)
    add = made_by(value, "Add")
    if add is None:
        return None
    found = split_operands(add, vector)
    if found is None or only_user(found[0]) is None:
        return None
    node = linear(found[0])
    if node is None or constant(node.inputs[1]).shape[1:] != found[1].shape:
        return None
    return node, found[1]


def vector(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of an initializer of one axis, or None."""
    array = constant(value)
    return array if array is not None and array.ndim == 1 else None


def is_linear(gemm: ir.Node) -> bool:
    """Whether a Gemm is by a constant matrix, and scales nothing."""
    plain = all(attribute(gemm, key, 1.0) == 1.0 for key in ("alpha", "beta"))
    is_constant = constant(gemm.inputs[1]) is not None
    return plain and is_constant and not attribute(gemm, "transA", 0)


def product_of(editor: Editor, gemm: ir.Node) -> ir.Value:
    """The product of a linear Gemm, without its bias."""
    x, weight = gemm.inputs[:2]
    if attribute(gemm, "transB", 0):
        weight = editor.once(_transposed, weight)
    return editor.put("MatMul", x, weight)


def _transposed(editor: Editor, weight: ir.Value) -> ir.Value:
    return editor.add_constant(constant(weight).T, f"{weight.name}.T")
