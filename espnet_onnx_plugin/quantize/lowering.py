"""One graph and its layers in lower precision."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.bundle import weights_path
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.evaluate.speed import is_faster
from espnet_onnx_plugin.optimize.editor import Editor
from espnet_onnx_plugin.optimize.fuse import fuse_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules
from espnet_onnx_plugin.quantize import convolutions, products, recurrent
from espnet_onnx_plugin.quantize.convolutions import Range
from espnet_onnx_plugin.quantize.layers import (
    CONVOLUTION,
    PRODUCT,
    RECURRENT,
    Layer,
    Replacement,
    find_layers,
    gemms_to_products,
)
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

logger = logging.getLogger(__name__)

FP32 = "fp32"

#: The forms of a product, by the precision that was asked for: each costs less quality
#: than the one before, and more time or memory.
LADDERS = {
    "int8": ("int8", "weight8", FP32),
    "weight8": ("weight8", FP32),
    "weight4": ("weight4", "weight8", FP32),
}

#: The input of :meth:`Lowering.write_probe`.
SWITCHES = "switches"

_BITS = {"weight8": 8, "weight4": 4}


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


def _open(source: Path) -> Editor:
    editor = Editor(load_rewritten(source, "cpu"))
    gemms_to_products(editor)
    return editor


@dataclass(frozen=True)
class Lowering:
    """A graph of the bundle that is quantized, ready to be written in any precision.

    Attributes:
        source: the exported graph.
        reduce_range: whether integer weights get 7 bits.
        ladders: the forms of each layer, the one to start from first.
        ranges: of what convolutions take and give, by name.
    """

    source: Path
    reduce_range: bool
    ladders: Mapping[Layer, Sequence[str]]
    ranges: Mapping[str, Range]

    def without(self, kinds: Collection[str]) -> Lowering:
        """Leave the layers of some kinds in fp32."""
        left = {x: forms for x, forms in self.ladders.items() if x.kind not in kinds}
        return replace(self, ladders=left)

    def _lower(
        self, editor: Editor, layer: Layer, node: ir.Node, form: str
    ) -> Replacement:
        if layer.kind == CONVOLUTION:
            return convolutions.static_int8(
                editor, node, self.ranges, self.reduce_range
            )
        if layer.kind == RECURRENT:
            return recurrent.dynamic_int8(editor, node, self.reduce_range)
        if form == "int8":
            return products.dynamic_int8(editor, node, self.reduce_range)
        return products.in_blocks(editor, node, _BITS[form])

    def write(self, forms: Mapping[str, str], target: Path) -> None:
        """Write the graph, fused, with each layer in the form that its name has."""
        editor = _open(self.source)
        nodes = find_layers(editor.model)
        for layer in self.ladders:
            form = forms[layer.name]
            if form != FP32:
                lowered = self._lower(editor, layer, nodes[layer], form)
                for old, new in lowered.items():
                    editor.replace(old, new)
        editor.tidy()
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            plain = Path(work) / target.name
            save_graph(editor.model, plain)
            for file in (target, weights_path(target)):
                file.unlink(missing_ok=True)  # what is open now stays as it was
            fuse_graph(plain, target, "cpu")

    def write_probe(self, form: str, target: Path) -> list[Layer]:
        """Write the graph with a switch at every layer that has a form.

        Its additional input ``switches``, bool (layers,), tells which layers take the
        form; the others stay in fp32.

        Returns:
            The layers, in the order of the switches.
        """
        editor = _open(self.source)
        nodes = find_layers(editor.model)
        layers = [layer for layer, forms in self.ladders.items() if form in forms]
        switches = ir.val(SWITCHES, ir.DataType.BOOL, [len(layers)])
        editor.graph.inputs.append(switches)
        for i, layer in enumerate(layers):
            is_on = editor.put("Gather", switches, editor.add_constant(np.array(i)))
            known = len(editor.graph)
            values = self._lower(editor, layer, nodes[layer], form)
            new = editor.graph[known:]
            old = dict.fromkeys([nodes[layer], *(value.producer() for value in values)])
            editor.choose(is_on, values, new, list(old))
        editor.tidy()
        save_graph(editor.model, target)
        return layers


def calibrate_graph(
    source: Path,
    precision: str,
    reduce_range: bool,
    device: Device,
    feeds: Sequence[Feeds] = (),
) -> Lowering:
    """Find the layers of a graph that are lowered, and measure what they need for it.

    Args:
        source: the exported graph.
        precision: a key of :data:`LADDERS`.
        reduce_range: whether integer weights get 7 bits.
        device: where ranges are measured.
        feeds: inputs made from real audio, which tell the ranges of convolutions; none
            leave these in fp32.

    Raises:
        PluginError: if the graph has been optimized or quantized already.
    """
    editor = _open(source)
    nodes = find_layers(editor.model)
    ladders: dict[Layer, Sequence[str]] = {}
    for layer, node in nodes.items():
        if layer.kind == PRODUCT:
            ladders[layer] = LADDERS[precision]
        elif precision == "int8" and (
            layer.kind == RECURRENT or (feeds and convolutions.pays(node))
        ):
            ladders[layer] = ("int8", FP32)
    filters = [nodes[layer] for layer in ladders if layer.kind == CONVOLUTION]
    ranges = _measure_ranges(editor, filters, device, feeds)
    return Lowering(source, reduce_range, ladders, ranges)


def keep_faster(
    lowering: Lowering,
    device: Device,
    feeds: Sequence[Feeds],
    only_faster: bool = False,
) -> Lowering:
    """Leave convolutions in fp32 where this machine runs the graph faster so.

    Args:
        device: where it is timed.
        feeds: inputs made from real audio, of which the longest is taken.
        only_faster: whether a graph that is no faster stays in fp32 whole.
    """
    name = lowering.source.stem
    if lowering.ranges and not _is_faster(lowering, {CONVOLUTION}, device, feeds):
        logger.info("%s: its convolutions are faster in fp32", name)
        lowering = lowering.without({CONVOLUTION})
    if only_faster and feeds and lowering.ladders:
        kinds = {PRODUCT, RECURRENT, CONVOLUTION}
        if not _is_faster(lowering, kinds, device, feeds):
            logger.info("%s: it is faster in fp32", name)
            lowering = lowering.without(kinds)
    return lowering


def _measure_ranges(
    editor: Editor, filters: Sequence[ir.Node], device: Device, feeds: Sequence[Feeds]
) -> dict[str, Range]:
    """Ranges of what convolutions take and give, by name; the graph gets outputs."""
    if not filters:
        return {}
    values = {
        v for node in filters for v in (node.inputs[0], convolutions.result(node))
    }
    editor.graph.outputs.extend(v for v in values if not v.is_graph_output())
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "calibrated.onnx"
        save_graph(editor.model, path)
        session = open_graph(path, device)
    names = sorted(value.name for value in values)
    known = {entry.name for entry in session.get_inputs()}
    ranges: dict[str, Range] = {}
    for feed in feeds:
        inputs = {name: value for name, value in feed.items() if name in known}
        for name, value in zip(names, session.run(names, inputs)):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, value.min()), max(high, value.max()))
    return ranges


def _is_faster(
    lowering: Lowering, kinds: Collection[str], device: Device, feeds: Sequence[Feeds]
) -> bool:
    """Whether this machine runs the graph faster with such layers lowered."""
    low = {layer.name: forms[0] for layer, forms in lowering.ladders.items()}
    high = {layer.name: FP32 for layer in lowering.ladders if layer.kind in kinds}
    longest = max(feeds, key=lambda feed: sum(x.size for x in feed.values()))
    with tempfile.TemporaryDirectory() as work:
        paths = [Path(work) / f"{side}.onnx" for side in ("low", "high")]
        for path, forms in zip(paths, (low, {**low, **high})):
            lowering.write(forms, path)
        return is_faster(*paths, longest, device)
