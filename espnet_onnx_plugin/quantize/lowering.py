"""One graph and its layers in integers, for CPUs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from espnet_onnx_plugin.bundle.graph_file import save_graph
from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.evaluate.speed import is_faster
from espnet_onnx_plugin.files import temporary_directory
from espnet_onnx_plugin.optimize.editor import Editor
from espnet_onnx_plugin.quantize import convolutions, products, recurrent
from espnet_onnx_plugin.quantize.convolutions import Range
from espnet_onnx_plugin.quantize.forms import FP32, Lowering, either
from espnet_onnx_plugin.quantize.layers import (
    CONVOLUTION,
    PRODUCT,
    RECURRENT,
    Layer,
    Replacement,
    find_layers,
)
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

logger = logging.getLogger(__name__)

#: The forms of a product, by the precision that was asked for: each costs less quality
#: than the one before, and more time or memory.
LADDERS = {
    "int8": ("int8", "weight8", FP32),
    "weight8": ("weight8", FP32),
    "weight4": ("weight4", "weight8", FP32),
}

_BITS = {"weight8": 8, "weight4": 4}


@dataclass(frozen=True)
class IntegerLowering(Lowering):
    """A graph whose layers take integers, for CPUs.

    Attributes:
        reduce_range: whether integer weights get 7 bits.
        ranges: of what convolutions take and give, by name.
    """

    reduce_range: bool
    ranges: Mapping[str, Range]

    def apply(self, editor: Editor, forms: Mapping[str, str]) -> None:
        """Put integers in the places of layers."""
        nodes = find_layers(editor.model)
        for layer in self.ladders:
            form = forms[layer.name]
            if form != FP32:
                lowered = self._lower(editor, layer, nodes[layer], form)
                for old, new in lowered.items():
                    editor.replace(old, new)

    def switch(
        self,
        editor: Editor,
        layer: Layer,
        node: ir.Node | None,
        form: str,
        is_on: ir.Value,
    ) -> None:
        """Put a layer in integers beside the one in floats."""
        assert node is not None
        either(editor, is_on, node, lambda: self._lower(editor, layer, node, form))

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


def calibrate_graph(
    source: Path,
    precision: str,
    reduce_range: bool,
    device: Device,
    feeds: Sequence[Feeds] = (),
) -> IntegerLowering:
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
    lowering = IntegerLowering(source, {}, reduce_range, {})
    editor = lowering.open()
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
    return replace(lowering, ladders=ladders, ranges=ranges)


def keep_faster(
    lowering: IntegerLowering,
    device: Device,
    feeds: Sequence[Feeds],
    only_faster: bool = False,
) -> IntegerLowering:
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
    with temporary_directory() as work:
        path = work / "calibrated.onnx"
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
    lowering: IntegerLowering,
    kinds: Collection[str],
    device: Device,
    feeds: Sequence[Feeds],
) -> bool:
    """Whether this machine runs the graph faster with such layers lowered."""
    low = {layer.name: forms[0] for layer, forms in lowering.ladders.items()}
    high = {layer.name: FP32 for layer in lowering.ladders if layer.kind in kinds}
    longest = max(feeds, key=lambda feed: sum(x.size for x in feed.values()))
    with temporary_directory() as work:
        paths = [work / f"{side}.onnx" for side in ("low", "high")]
        for path, forms in zip(paths, (low, {**low, **high})):
            lowering.write(forms, path)
        return is_faster(*paths, longest, device)
