"""Half precision for GPUs: which nodes of a graph compute in 16 bits, and which do not.

Weights, products and what lies between them are in 16 bits, and so are the keys and
values of a search (``half_states.py``). What 16 bits do not hold stays in
float32: sums over many values, logarithms and exponentials, spectra, positions and
lengths, constants that would be lost, and activations that came out large on real
audio. Layer normalization and softmax stay in 16 bits, for onnxruntime's kernels for
CUDA take their sums in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from espnet_onnx_plugin.optimize.editor import (
    Editor,
    attribute,
    constant,
    infer_shapes,
    made_by,
)

#: A masked score: not a number that 16 bits have to hold.
_MASKED = 1e30


@dataclass(frozen=True)
class Format:
    """A format of 16-bit floats.

    Attributes:
        dtype: ONNX's name of it.
        largest: the largest number.
        step: from 1 to the next number.
        operators: those that compute in it; None: all but :data:`_FLOAT32`.
        states: whether states are kept in it, which takes that numpy knows it.
    """

    dtype: ir.DataType
    largest: float
    step: float
    operators: frozenset[str] | None = None
    states: bool = False

    def has(self, operator: str) -> bool:
        """Whether an operator of ONNX computes in this format."""
        if self.operators is not None:
            return operator in self.operators
        return operator not in _FLOAT32

    def round(self, array: np.ndarray) -> np.ndarray:
        """An array in this format.

        Masks get half of the largest number, so that a score added to one is finite:
        in a row without any valid key, infinities would have no mean.
        """
        bound = np.float32(self.largest / 2)
        array = np.where(np.abs(array) >= _MASKED, np.clip(array, -bound, bound), array)
        with np.errstate(over="ignore"):
            return array.astype(self.dtype.numpy())

    def holds(self, array: np.ndarray) -> bool:
        """Whether constants are themselves in this format, but for rounding."""
        array = array[np.abs(array) < _MASKED].astype(np.float64)
        error = np.linalg.norm(self.round(array).astype(np.float64) - array)
        return bool(error <= self.step * np.linalg.norm(array))


#: The operators that move numbers about.
EXACT = frozenset(
    """Concat Expand Flatten Gather GatherElements GatherND Identity Pad Reshape
    ScatterElements ScatterND Slice Split Squeeze Tile Transpose Unsqueeze
    Where""".split()
)

#: What onnxruntime's CUDA has for bfloat16 in opset 20 (``docs/OperatorKernels.md``):
#: products, not convolutions, nor recurrent layers, nor padding.
_BFLOAT16 = frozenset(
    """Add Concat Div Erf Expand Gather Gelu Gemm Identity LayerNormalization MatMul Mul
    Neg Relu Reshape Sigmoid Slice Softmax Split Squeeze Sub Tanh Tile Transpose
    Unsqueeze Where""".split()
)

#: The formats, by precision.
FORMATS = {
    "fp16": Format(ir.DataType.FLOAT16, 65504.0, 2.0**-10, states=True),
    "bf16": Format(ir.DataType.BFLOAT16, 3.38e38, 2.0**-7, _BFLOAT16),
}

#: Operators in float32: sums over many values, functions whose results grow beyond
#: 16 bits or of whose arguments they hold too little, and those that have no kernel.
_FLOAT32 = frozenset(
    """Bernoulli Ceil CumSum DFT Exp EyeLike Floor GridSample GroupNormalization If
    InstanceNormalization Log LogSoftmax Loop Mod Multinomial Pow RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Resize
    Round STFT Scan Softplus Sqrt""".split()
)

#: Operators before which all is in float32, if it is a spectrum: the logarithm of its
#: quiet bins, and the sine of a position, need every bit.
_SPECTRAL = ("Log", "Sin", "Cos")

#: What no spectrum goes through, but the hidden values of a network do.
_HIDDEN = frozenset(
    "Erf Gelu LSTM GRU LayerNormalization Relu Sigmoid Softmax Tanh".split()
)

#: Layers, whose result is in 16 bits even where float32 goes into them.
_LAYERS = frozenset("Conv ConvTranspose GRU Gemm LSTM MatMul RNN".split())

#: Operators that take any type as it is.
_ANY_TYPE = frozenset("Cast IsInf IsNaN Shape Size".split())


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is a tensor of float32."""
    if value is None:
        return False
    if value.const_value is not None:
        return value.const_value.dtype == ir.DataType.FLOAT
    return value.dtype == ir.DataType.FLOAT


def infer_types(model: ir.Model) -> None:
    """Infer the types and shapes of all values, those behind fused attention too."""
    infer_shapes(model)
    fused = [
        value
        for node in model.graph
        if node.domain
        for value in node.outputs
        if value.name and value.type is None
    ]
    for value in fused:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    if fused:
        infer_shapes(model)


def nodes_in_half(
    graph: ir.Graph,
    form: Format,
    single: Collection[ir.Node] = (),
    large: Collection[str] = (),
    ends: Collection[str] = (),
) -> list[ir.Node]:
    """The nodes that compute in 16 bits, in order.

    Args:
        graph: whose types are known.
        form: the format.
        single: nodes that stay in float32.
        large: names of values that do.
        ends: inputs that are in 16 bits.
    """
    kept = {*single, *_spectral(graph)}
    half = {value for value in graph.inputs if value.name in ends}
    chosen = []
    for node in graph:
        floats = [value for value in node.inputs if is_float(value)]
        made = [value for value in floats if constant(value) is None]
        if not any(map(is_float, node.outputs)) or node in kept:
            continue
        if node.op_type == "Cast" and not floats:
            continue  # a position, a length, a mask
        if made and node.op_type not in _LAYERS and half.isdisjoint(made):
            continue  # of float32 alone, as the statistics of a normalization are
        values = {value.name for value in (*floats, *node.outputs)}
        if not values.isdisjoint(large) or not _computes(node, form):
            continue
        chosen.append(node)
        half.update(filter(is_float, node.outputs))
    return chosen


def _computes(node: ir.Node, form: Format) -> bool:
    """Whether a node's operator and constants are fit for a format."""
    if not node.domain and not form.has(node.op_type):
        return False
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return False  # a square
    if node.op_type == "Div" and constant(node.inputs[1]) is None:
        return False  # by a number that may be small
    arrays = (constant(value) for value in node.inputs if is_float(value))
    return all(form.holds(array) for array in arrays if array is not None)


def _spectral(graph: ir.Graph) -> set[ir.Node]:
    """The nodes before a logarithm or a sine, but for those of a network."""
    found: set[ir.Node] = set()
    hidden: set[ir.Value] = set()
    for node in graph:
        # Rows of a table of weights are hidden values, too.
        looked_up = node.op_type == "Gather" and constant(node.inputs[0]) is not None
        if node.op_type in _HIDDEN or looked_up or not hidden.isdisjoint(node.inputs):
            hidden.update(node.outputs)
    for node in reversed(graph):
        users = (user for value in node.outputs for user in value.consumers())
        if node.op_type in _SPECTRAL or not found.isdisjoint(users):
            if hidden.isdisjoint(node.outputs):
                found.add(node)
    return found


def convert(
    editor: Editor, nodes: Iterable[ir.Node], form: Format, ends: Collection[str] = ()
) -> None:
    """Let nodes compute in 16 bits, with casts between them and the others.

    Args:
        editor: the graph, whose types are known.
        nodes: as :func:`nodes_in_half` found them.
        form: the format.
        ends: inputs and outputs that are in 16 bits.
    """
    graph, chosen = editor.graph, set(nodes)
    half = {value for value in graph.inputs if value.name in ends}
    half.update(v for node in chosen for v in node.outputs if is_float(v))
    masks = _masks(graph)
    for node in list(RecursiveGraphIterator(graph)):
        for i, value in enumerate(node.inputs):
            if not is_float(value) or node.op_type in _ANY_TYPE:
                continue
            if node in chosen and value not in half:
                value = editor.once(_lowered, value, form, value in masks)
            elif node not in chosen and value in half:
                value = editor.once(cast, value, ir.DataType.FLOAT)
            node.replace_input_with(i, value)
        if node in chosen:
            _retype(node, form)
    for i, value in enumerate(graph.outputs):
        if is_float(value) and (value in half) != (value.name in ends):
            if value in half:
                give(graph, i, cast(editor, value, ir.DataType.FLOAT))
            else:
                give(graph, i, _lowered(editor, value, form, value in masks))
    for value in half:
        value.type = ir.TensorType(form.dtype)
    editor.tidy()


def _lowered(editor: Editor, value: ir.Value, form: Format, is_mask: bool) -> ir.Value:
    array = constant(value)
    if array is not None:
        return editor.add_constant(form.round(array), f"{value.name}.half")
    if is_mask:
        bounds = (np.float32(sign * form.largest / 2) for sign in (-1, 1))
        value = editor.put("Clip", value, *map(editor.add_constant, bounds))
    before = made_by(value, "Transpose")
    if before is None:
        return cast(editor, value, form.dtype)
    # Between a transpose and its product, onnxruntime's CUDA fuses to what it lacks.
    low = editor.once(cast, before.inputs[0], form.dtype)
    new = editor.put("Transpose", low, **before.attributes)
    new.type, new.shape = ir.TensorType(form.dtype), value.shape
    return new


def cast(editor: Editor, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Add a value as another type."""
    new = editor.put("Cast", value, to=dtype.value)
    new.type, new.shape = ir.TensorType(dtype), value.shape
    return new


def give(graph: ir.Graph, index: int, value: ir.Value) -> None:
    """Let a graph give another value as one of its outputs, under the same name."""
    old = graph.outputs[index]
    graph.outputs[index] = value
    old.name, value.name = value.name, old.name


def _masks(graph: ir.Graph) -> set[ir.Value]:
    """The values of float32 that may hold masked scores, which casts make infinite."""
    masks: set[ir.Value] = set()
    for node in graph:
        for value in node.inputs:
            array = constant(value) if is_float(value) else None
            holds = array is not None and (np.abs(array) >= _MASKED).any()
            if holds or value in masks:
                if node.op_type in EXACT or node.op_type in ("Add", "Mul", "Sub"):
                    masks.update(node.outputs)
    return masks


def _retype(node: ir.Node, form: Format) -> None:
    """Change the attributes of a node that name a type or hold a number."""
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", form.dtype.value)
    elif node.op_type == "ConstantOfShape":
        tensor = attribute(node, "value", None)
        array = np.zeros(1, np.float32) if tensor is None else tensor.numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(form.round(array)))
    elif "mask_filter_value" in node.attributes:
        value = max(attribute(node, "mask_filter_value", 0.0), -form.largest / 2)
        node.attributes["mask_filter_value"] = ir.AttrFloat32(
            "mask_filter_value", value
        )
