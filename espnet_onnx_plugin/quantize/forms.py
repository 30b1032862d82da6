"""One graph in several forms: each of its layers in a precision of its own."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.bundle import weights_path
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.optimize.editor import Editor
from espnet_onnx_plugin.optimize.fuse import fuse_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules
from espnet_onnx_plugin.quantize.layers import (
    Layer,
    Replacement,
    find_layers,
    gemms_to_products,
)

FP32 = "fp32"

#: The input of :meth:`Lowering.write_probe`.
SWITCHES = "switches"

LoweringT = TypeVar("LoweringT", bound="Lowering")


def load_rewritten(source: Path, provider: str) -> ir.Model:
    """Read an exported graph and apply the optimizer's rules to it.

    Raises:
        PluginError: if it has been optimized or quantized already.
    """
    model = load_graph(source)
    if any(node.domain for node in model.graph):
        raise PluginError(
            f"{source} is optimized or quantized already; give the bundle that was "
            "exported as --model_dir"
        )
    rules = tuple(rule for rule in RULES if not rule.for_floats)
    return apply_rules(model, provider, rules)[0]


@dataclass(frozen=True)
class Lowering(ABC):
    """A graph of the bundle that is quantized, ready to be written in any precision.

    Attributes:
        source: the exported graph.
        ladders: the forms of each layer, the one to start from first.
        provider: where the graph will run.
    """

    source: Path
    ladders: Mapping[Layer, Sequence[str]]

    provider: ClassVar[str] = "cpu"

    def open(self) -> Editor:
        """Read the graph as its layers are found in it."""
        editor = Editor(load_rewritten(self.source, self.provider))
        gemms_to_products(editor)
        return editor

    def without(self: LoweringT, kinds: Collection[str]) -> LoweringT:
        """Leave the layers of some kinds in fp32."""
        left = {x: forms for x, forms in self.ladders.items() if x.kind not in kinds}
        return replace(self, ladders=left)

    @abstractmethod
    def apply(self, editor: Editor, forms: Mapping[str, str]) -> None:
        """Change the graph that was opened to the form that each layer's name has."""

    @abstractmethod
    def switch(
        self,
        editor: Editor,
        layer: Layer,
        node: ir.Node | None,
        form: str,
        is_on: ir.Value,
    ) -> None:
        """Let a layer have a form only where a condition holds."""

    def write(self, forms: Mapping[str, str], target: Path) -> None:
        """Write the graph, fused, with each layer in the form that its name has."""
        editor = self.open()
        self.apply(editor, forms)
        editor.tidy()
        for file in (target, weights_path(target)):
            file.unlink(missing_ok=True)  # what is open now stays as it was
        self.save(editor, target)

    def save(self, editor: Editor, target: Path) -> None:
        """Write the graph as it is opened to run."""
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            plain = Path(work) / target.name
            save_graph(editor.model, plain)
            fuse_graph(plain, target, self.provider)

    def write_probe(self, form: str, target: Path) -> list[Layer]:
        """Write the graph with a switch at every layer that has a form.

        Its additional input ``switches``, bool (layers,), tells which layers take the
        form; the others stay in fp32.

        Returns:
            The layers, in the order of the switches.
        """
        editor = self.open()
        nodes = find_layers(editor.model)
        layers = [layer for layer, forms in self.ladders.items() if form in forms]
        switches = ir.val(SWITCHES, ir.DataType.BOOL, [len(layers)])
        editor.graph.inputs.append(switches)
        for i, layer in enumerate(layers):
            is_on = editor.put("Gather", switches, editor.add_constant(np.array(i)))
            self.switch(editor, layer, nodes.get(layer), form, is_on)
        editor.tidy()
        save_graph(editor.model, target)
        return layers


def either(
    editor: Editor,
    is_on: ir.Value,
    node: ir.Node,
    lower: Callable[[], Replacement],
) -> None:
    """Let what is made of a node take its place only where a condition holds."""
    known = len(editor.graph)
    values = lower()
    new = editor.graph[known:]
    old = dict.fromkeys([node, *(value.producer() for value in values)])
    editor.choose(is_on, values, new, list(old))
