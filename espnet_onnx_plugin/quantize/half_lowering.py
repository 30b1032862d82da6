"""One graph and its layers in 16 bits, for GPUs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.bundle.graph_file import save_graph
from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.files import temporary_directory
from espnet_onnx_plugin.optimize.editor import Editor, constant
from espnet_onnx_plugin.optimize.rules import residual_norm
from espnet_onnx_plugin.quantize.forms import FP32, Lowering, either
from espnet_onnx_plugin.quantize.half import (
    EXACT,
    FORMATS,
    Format,
    convert,
    infer_types,
    is_float,
    nodes_in_half,
)
from espnet_onnx_plugin.quantize.layers import Layer, Replacement, find_layers
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

#: Everything that is no layer, as one: what a graph adds, activates and normalizes.
ACTIVATIONS = Layer("activations", "activations")

#: How far below a format's largest number activations have to stay on the audio that
#: is measured, for other audio has larger ones.
HEADROOM = 8


@dataclass(frozen=True)
class HalfLowering(Lowering):
    """A graph that is written in 16 bits.

    Attributes:
        precision: a key of :data:`~espnet_onnx_plugin.quantize.half.FORMATS`.
        ends: names of inputs and outputs that are in 16 bits.
        large: names of values that came out large.
        fused: whether it may hold operators of onnxruntime's own.
    """

    precision: str
    ends: frozenset[str]
    large: frozenset[str] = frozenset()
    fused: bool = True

    provider = "cuda"

    @property
    def form(self) -> Format:
        """The format of 16-bit floats."""
        return FORMATS[self.precision]

    def open(self) -> Editor:
        """Read the graph as its layers are found in it, with its values' types."""
        editor = super().open()
        infer_types(editor.model)
        return editor

    def nodes(self, editor: Editor, single: Collection[ir.Node] = ()) -> list[ir.Node]:
        """The nodes that compute in 16 bits."""
        return nodes_in_half(editor.graph, self.form, single, self.large, self.ends)

    def apply(self, editor: Editor, forms: Mapping[str, str]) -> None:
        """Convert the graph but for the layers that stay in fp32."""
        layers = find_layers(editor.model)
        single = [
            node for layer, node in layers.items() if forms.get(layer.name) == FP32
        ]
        nodes = self.nodes(editor, single)
        if forms.get(ACTIVATIONS.name) == FP32:
            products = set(layers.values())
            nodes = [node for node in nodes if node in products]
        convert(editor, nodes, self.form, self.ends)

    def save(self, editor: Editor, target: Path) -> None:
        """Write the graph; most that is fused for a GPU is fused where it is opened."""
        if self.fused:
            residual_norm.apply(editor)
            editor.tidy()
        save_graph(editor.model, target)

    def switch(
        self,
        editor: Editor,
        layer: Layer,
        node: ir.Node | None,
        form: str,
        is_on: ir.Value,
    ) -> None:
        """Round a layer's weights, input and output where a condition holds."""
        if node is not None:
            either(editor, is_on, node, lambda: self._rounded(editor, node))
            return
        layers = set(find_layers(editor.model).values())
        for other in self.nodes(editor):
            if other in layers or other.op_type in EXACT:
                continue
            for value in filter(is_float, other.outputs):
                users = value.uses()
                rounded = _round(editor, value, self.form)
                chosen = editor.put("Where", is_on, rounded, value)
                for user, index in users:
                    user.replace_input_with(index, chosen)

    def _rounded(self, editor: Editor, node: ir.Node) -> Replacement:
        inputs = [
            _round(editor, value, self.form) if is_float(value) else value
            for value in node.inputs
        ]
        new = editor.add(
            node.op_type, *inputs, outputs=len(node.outputs), **node.attributes
        )
        return {
            old: _round(editor, value, self.form)
            for old, value in zip(node.outputs, new.outputs)
            if old.uses() or old.is_graph_output()
        }


def _round(editor: Editor, value: ir.Value, form: Format) -> ir.Value:
    """A value of float32, rounded to a format."""
    array = constant(value)
    if array is not None:
        return editor.add_constant(form.round(array).astype(np.float32))
    low = editor.put("Cast", value, to=form.dtype.value)
    return editor.put("Cast", low, to=ir.DataType.FLOAT.value)


def calibrate_half(
    source: Path,
    precision: str,
    ends: Collection[str],
    device: Device,
    feeds: Sequence[Feeds] = (),
    fused: bool = True,
) -> HalfLowering:
    """Find the layers of a graph that take 16 bits, and the values that are too large.

    Args:
        source: the exported graph.
        precision: a key of :data:`~espnet_onnx_plugin.quantize.half.FORMATS`.
        ends: names of its inputs and outputs that are in 16 bits.
        device: where it is run.
        feeds: inputs made from real audio; without any, all values count as small.
        fused: whether it may hold operators of onnxruntime's own.

    Raises:
        PluginError: if the graph has been optimized or quantized already.
    """
    lowering = HalfLowering(source, {}, precision, frozenset(ends), fused=fused)
    editor = lowering.open()
    lowering = replace(lowering, large=_large(lowering, editor, device, feeds))
    editor = lowering.open()
    chosen = set(lowering.nodes(editor))
    layers = [x for x, node in find_layers(editor.model).items() if node in chosen]
    forms = (precision, FP32)
    ladders = dict.fromkeys([ACTIVATIONS, *layers] if layers else (), forms)
    return replace(lowering, ladders=ladders)


def _large(
    lowering: HalfLowering, editor: Editor, device: Device, feeds: Sequence[Feeds]
) -> frozenset[str]:
    """Names of the values that do not fit in 16 bits; the graph gets an output."""
    nodes = lowering.nodes(editor)
    values = [v for node in nodes for v in (*node.inputs, *node.outputs) if is_float(v)]
    values = [v for v in dict.fromkeys(values) if constant(v) is None]
    if not values or not feeds:
        return frozenset()
    zero = editor.add_constant(np.zeros(1, np.float32))
    masked = editor.add_constant(np.float32(1e30))
    flat, all_axes = editor.ints(-1), editor.ints(0)
    largest = []
    for value in values:
        size = editor.put("Abs", editor.put("Reshape", value, flat))
        # Masks are not activations.
        size = editor.put("Where", editor.put("Less", size, masked), size, zero)
        size = editor.put("Concat", zero, size, axis=0)  # a value may be empty
        largest.append(editor.put("ReduceMax", size, all_axes, keepdims=1))
    output = editor.put("Concat", *largest, axis=0)
    output.type = ir.TensorType(ir.DataType.FLOAT)
    editor.graph.outputs.append(output)
    with temporary_directory() as work:
        path = work / "measured.onnx"
        save_graph(editor.model, path)
        session = open_graph(path, device)
    known = {entry.name for entry in session.get_inputs()}
    found = np.zeros(len(values), np.float32)
    for feed in feeds:
        inputs = {name: value for name, value in feed.items() if name in known}
        found = np.maximum(found, session.run([output.name], inputs)[0])
    limit = lowering.form.largest / HEADROOM
    return frozenset(v.name for v, size in zip(values, found) if not size <= limit)
