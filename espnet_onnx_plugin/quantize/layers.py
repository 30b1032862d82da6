"""The layers of a graph that can be quantized: what they are called, where they lie.

A layer is a product with a constant matrix, or a convolution or an LSTM with constant
weights.
What leads to a ``Log`` is none: a power spectrum spans ten orders of magnitude, and in
8 bits its quiet bins, of which the logarithm is taken, are all zero.
"""

import re
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Optional, Set

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_node, make_tensor_value_info

PRODUCT, CONVOLUTION, RECURRENT = "product", "convolution", "recurrent"

#: Nodes that take the place of others, by the first output of the old one.
Replacement = Dict[str, List[onnx.NodeProto]]


@dataclass(frozen=True)
class Layer:
    """A layer of a graph.

    Attributes:
        name: unique in the graph; the module's path in ESPnet's model where a parameter
            tells it, e.g. ``encoder.encoders.0.feed_forward.w_1``, or the last such one
            and how many layers after it, e.g. ``ctc.ctc_lo+1``.
        kind: :data:`PRODUCT`, :data:`CONVOLUTION` or :data:`RECURRENT`.
        output: what the node gives, which identifies it.
    """

    name: str
    kind: str
    output: str


@dataclass
class Editor:
    """A graph under change: nodes are replaced, constants are added and swept."""

    model: onnx.ModelProto
    constants: Dict[str, onnx.TensorProto] = field(init=False)
    consumers: Dict[str, List[onnx.NodeProto]] = field(init=False)
    _nodes: Dict[str, onnx.NodeProto] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = {node.output[0]: node for node in graph.node}
        self.consumers = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}

    def node(self, output: str) -> onnx.NodeProto:
        """The node with this first output."""
        return self._nodes[output]

    def array(self, name: str) -> np.ndarray:
        """Value of a constant."""
        return numpy_helper.to_array(self.constants[name])

    def rank(self, name: str) -> Optional[int]:
        """Number of axes of a constant, None for what is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else len(tensor.dims)

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant, once; return its name."""
        if name not in self.constants:
            tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
            self.constants[name] = tensor
            self.model.graph.initializer.append(tensor)
        return name

    def own_name(self, name: str, node: onnx.NodeProto) -> str:
        """Name for what is made of a constant for a node that may not be its only one.

        Integer weights that several nodes read are as many copies, because onnxruntime
        refuses to load others where it makes them unsigned, see
        :mod:`espnet_onnx_plugin.runtime.core.arithmetic`.
        """
        alone = len(self.consumers[name]) == 1
        return name if alone else f"{name}.{node.output[0]}"

    def only_consumer(self, name: str) -> Optional[onnx.NodeProto]:
        """The node that alone takes a tensor, None where there are more or others."""
        nodes = self.consumers.get(name, [])
        return nodes[0] if len(nodes) == 1 and name not in self._outputs else None

    def bias(self, node: onnx.NodeProto) -> Optional[onnx.NodeProto]:
        """The addition of a constant vector that alone follows a node, if any."""
        add = self.only_consumer(node.output[0])
        if add is not None and add.op_type == "Add" and bias_of(self, add) is not None:
            return add
        return None

    def switched(self, nodes: Replacement, switches: str, i: int) -> Replacement:
        """A replacement that takes place only where the i-th switch is on.

        Args:
            nodes: of one layer; the last output is what it gives.
            switches: a tensor of bool (switches,).
        """
        result = list(nodes)[-1]
        on = self._branch(sum(nodes.values(), []), result, f"{i}.on")
        off = self._branch([self.node(output) for output in nodes], result, f"{i}.off")
        index = self.constant(f"{switches}.{i}", np.array(i))
        switch = f"{switches}.is_on.{i}"
        condition = make_node("Gather", [switches, index], [switch])
        choice = make_node("If", [switch], [result], then_branch=on, else_branch=off)
        return {output: [] for output in nodes} | {result: [condition, choice]}

    def _branch(
        self, nodes: Iterable[onnx.NodeProto], result: str, suffix: str
    ) -> onnx.GraphProto:
        """Copies of nodes as a graph; names of its own, as ONNX asks of a subgraph.

        Integer weights lie in it, where onnxruntime can make them unsigned.
        """
        copies, names, weights = [], {}, {}
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            names.update({name: f"{name}.{suffix}" for name in node.output})
            for name in node.input:
                tensor = self.constants.get(name)
                if tensor is not None and tensor.data_type == onnx.TensorProto.INT8:
                    weights[name] = tensor
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names[name] for name in node.output]
            copies.append(copy)
        output = make_tensor_value_info(names[result], onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph(
            copies, suffix, [], [output], list(weights.values())
        )

    def replace(self, nodes: Replacement) -> None:
        """Put nodes in the place of others, and drop what nobody needs any more.

        Args:
            nodes: an empty list removes a node.
        """
        graph = self.model.graph
        new: List[onnx.NodeProto] = []
        for node in graph.node:
            new += nodes.get(node.output[0], [node])
        used, live = set(self._outputs), []
        for node in reversed(new):
            if used.intersection(node.output):
                used.update(_reads(node))
                live.append(node)
        del graph.node[:]
        graph.node.extend(reversed(live))
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        if len(kept) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(kept)
        self.__post_init__()


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        own = {tensor.name for tensor in attribute.g.initializer}
        for inner in attribute.g.node:
            yield from (name for name in _reads(inner) if name not in own)


def bias_of(editor: Editor, add: onnx.NodeProto) -> Optional[str]:
    """The constant vector among the two inputs of an addition."""
    for name in add.input:
        if editor.rank(name) == 1:
            return name
    return None


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """Value of an attribute of a node."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def gemms_to_products(model: onnx.ModelProto) -> None:
    """Turn ``Gemm`` with a constant matrix into a product and an addition."""
    editor = Editor(model)
    new: Replacement = {}
    for node in model.graph.node:
        plain = all(attribute(node, key, 1.0) == 1.0 for key in ("alpha", "beta"))
        if (
            node.op_type != "Gemm"
            or editor.rank(node.input[1]) != 2
            or attribute(node, "transA", 0)
            or not plain
        ):
            continue
        weight, output = node.input[1], node.output[0]
        if attribute(node, "transB", 0):
            weight = editor.constant(f"{weight}.T", editor.array(weight).T)
        bias = len(node.input) > 2
        product = f"{output}.product" if bias else output
        new[output] = [make_node("MatMul", [node.input[0], weight], [product])]
        if bias:
            new[output].append(make_node("Add", [product, node.input[2]], [output]))
    editor.replace(new)


def leading_to(graph: onnx.GraphProto, operators: Set[str]) -> Set[str]:
    """First outputs of the nodes of some operators and of all nodes before them."""
    found: Set[str] = set()
    wanted: Set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in operators or wanted.intersection(node.output):
            found.add(node.output[0])
            wanted.update(node.input)
    return found


def find_layers(model: onnx.ModelProto) -> List[Layer]:
    """The layers of a graph, in its order."""
    editor = Editor(model)
    skipped = leading_to(model.graph, {"Log"})
    layers: List[Layer] = []
    names: Set[str] = set()
    last, after = "", 0
    for node in model.graph.node:
        if node.output[0] in skipped or node.domain:
            continue
        if node.op_type == "MatMul" and editor.rank(node.input[1]) == 2:
            kind = PRODUCT
        elif node.op_type == "Conv" and editor.rank(node.input[1]) is not None:
            kind = CONVOLUTION
        elif node.op_type == "LSTM" and editor.rank(node.input[1]) is not None:
            kind = RECURRENT
        else:
            continue
        module = _module(editor, node)
        if module is None or module in names:
            after += 1
            name = f"{last}+{after}"
        else:
            name = last = module
            after = 0
        names.add(name)
        layers.append(Layer(name, kind, node.output[0]))
    return layers


def _module(editor: Editor, node: onnx.NodeProto) -> Optional[str]:
    """Path of the module whose parameters a node holds, if they tell."""
    add = editor.bias(node)
    parameters = list(node.input[1:]) + ([bias_of(editor, add)] if add else [])
    for parameter in parameters:
        match = re.fullmatch(r"(.+)\.(weight|bias)(\.\w+)?", parameter)
        if match:
            return match[1]
    return None
