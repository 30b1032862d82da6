"""What rules use to read and to change a graph."""

from typing import Any, Callable, Dict, Hashable, List, Optional, Sequence, Tuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common.shape_inference import infer_shapes

#: onnxruntime's own operators.
CONTRIB = "com.microsoft"


def with_shapes(model: onnx.ModelProto) -> ir.Model:
    """Infer the shapes of what a graph computes; it may hold more than 2 GiB."""
    return infer_shapes(ir.from_proto(model), check_type=False, strict_mode=False)


class Graph:
    """A graph under rewriting: producers, constants, new nodes and replacements.

    New nodes are sorted into their place when the rules are done, so a rule may put
    them in any order.
    """

    def __init__(self, model: ir.Model):
        self.model = model
        self._graph = model.graph
        self._shared: Dict[Hashable, ir.Value] = {}
        self._count = 0

    def nodes(self, *op_types: str) -> List[ir.Node]:
        """The nodes of these operators, in order."""
        return [node for node in self._graph if node.op_type in op_types]

    def put(
        self,
        op_type: str,
        *inputs: Optional[ir.Value],
        domain: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> Any:
        """Add a node; returns its output, or its outputs where there are several."""
        node = ir.Node(
            domain,
            op_type,
            list(inputs),
            [ir.convenience.convert_attribute(*item) for item in attributes.items()],
            num_outputs=outputs,
        )
        for value in node.outputs:
            value.name = self._name(op_type)
        self._graph.append(node)
        if domain:
            self.model.graph.opset_imports.setdefault(domain, 1)
        return node.outputs[0] if outputs == 1 else list(node.outputs)

    def add_constant(self, array: np.ndarray, name: str = "") -> ir.Value:
        """Add an initializer, under a name or, where that is taken, one like it."""
        name = name or self._name("constant")
        if name in self._graph.initializers:
            self._count += 1
            name += str(self._count)
        value = ir.Value(
            name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name)
        )
        self._graph.register_initializer(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """An int64 vector; equal ones are one initializer."""
        return self.once(_ints, *numbers)

    def once(self, make: Callable[..., ir.Value], *args: Hashable) -> ir.Value:
        """``make(graph, *args)``, made once for all layers that ask for the same."""
        key = (make, args)
        if key not in self._shared:
            self._shared[key] = make(self, *args)
        return self._shared[key]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every user of a value, the graph's outputs too, have another one."""
        if new.type is None:
            new.type, new.shape = old.type, old.shape
        if old.is_graph_output():
            old.name, new.name = self._name("replaced"), old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

    def remove_unused(self) -> None:
        """Drop nodes and initializers that no output needs."""
        self._shared.clear()  # some of it may go
        for node in reversed(list(self._graph)):
            used = any(v.uses() or v.is_graph_output() for v in node.outputs)
            if not used:
                self._graph.remove(node, safe=True)
        for name, value in list(self._graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self._graph.initializers[name]

    def sort(self) -> None:
        """Put every node after those that it depends on."""
        self._graph.sort()

    def _name(self, hint: str) -> str:
        self._count += 1
        return f"rewritten_{hint}_{self._count}"


def _ints(graph: Graph, *numbers: int) -> ir.Value:
    return graph.add_constant(np.array(numbers, np.int64))


def constant(value: Optional[ir.Value]) -> Optional[np.ndarray]:
    """The numbers of an initializer, or None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def scalar(value: Optional[ir.Value]) -> Optional[float]:
    """The number of an initializer that holds one, or None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def made_by(value: Optional[ir.Value], *op_types: str) -> Optional[ir.Node]:
    """The node that gives a value, if it is of one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def users(value: ir.Value) -> List[ir.Node]:
    """The nodes that take a value."""
    return [usage.node for usage in value.uses()]


def is_private(value: ir.Value) -> bool:
    """Whether exactly one node takes a value and no output is it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def split_operands(
    node: ir.Node, wanted: Callable[[ir.Value], Any]
) -> Optional[Tuple[ir.Value, Any]]:
    """Of a commutative node: (the other operand, what ``wanted`` says of the one)."""
    a, b = node.inputs
    for one, other in ((b, a), (a, b)):
        found = wanted(one)
        if found is not None:
            return other, found
    return None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def tail(shape: Optional[ir.Value], count: int) -> Optional[Tuple[int, ...]]:
    """The last numbers of a tensor that holds a shape, if they are constant."""
    numbers: List[int] = []
    parts: Sequence[Optional[ir.Value]] = [shape]
    node = made_by(shape, "Concat")
    if node is not None:
        parts = node.inputs
    for part in reversed(parts):
        array = constant(part)
        if array is None:
            break
        numbers = array.reshape(-1).tolist() + numbers
        if len(numbers) >= count:
            return tuple(numbers[-count:])
    return None


def linear(value: Optional[ir.Value]) -> Optional[ir.Node]:
    """The MatMul by a constant matrix that gives a value, or None."""
    node = made_by(value, "MatMul")
    weight = constant(node.inputs[1]) if node is not None else None
    return node if weight is not None and weight.ndim == 2 else None


def biased_linear(
    value: Optional[ir.Value],
) -> Optional[Tuple[ir.Node, np.ndarray]]:
    """The linear MatMul and its bias (zeros where it has none), private to a value."""
    node = linear(value)
    if node is not None:
        return node, np.zeros(constant(node.inputs[1]).shape[1], np.float32)
    add = made_by(value, "Add")
    if add is None:
        return None
    found = split_operands(add, lambda v: _vector(constant(v)))
    if found is None or not is_private(found[0]):
        return None
    node = linear(found[0])
    if node is None or constant(node.inputs[1]).shape[1:] != found[1].shape:
        return None
    return node, found[1]


def _vector(array: Optional[np.ndarray]) -> Optional[np.ndarray]:
    return array if array is not None and array.ndim == 1 else None
