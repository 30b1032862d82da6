"""One graph and its layers in lower precision."""

import logging
import tempfile
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Tuple

import onnx
from onnx.helper import make_empty_tensor_value_info

from espnet_onnx_plugin.bundle import weights_path
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.evaluate.speed import is_faster
from espnet_onnx_plugin.optimize.fuse import fuse_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules
from espnet_onnx_plugin.quantize import convolutions, products, recurrent
from espnet_onnx_plugin.quantize.convolutions import Range
from espnet_onnx_plugin.quantize.layers import (
    CONVOLUTION,
    PRODUCT,
    RECURRENT,
    Editor,
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


def load_rewritten(source: Path, provider: str) -> onnx.ModelProto:
    """Read an exported graph and apply the optimizer's rules to it.

    Raises:
        PluginError: if it has been optimized or quantized already.
    """
    model = load_graph(source)
    if any(node.domain for node in model.graph.node):
        raise PluginError(
            f"{source} is optimized or quantized already; give the bundle that was "
            "exported as --model_dir"
        )
    rules = tuple(rule for rule in RULES if not rule.for_floats)
    return apply_rules(model, provider, rules)[0]


class Lowering:
    """A graph of the bundle that is quantized, ready to be written in any precision.

    Args:
        source: the exported graph.
        precision: a key of :data:`LADDERS`.
        reduce_range: whether integer weights get 7 bits.
        feeds: inputs made from real audio, which tell the ranges of convolutions and
            whether int8 makes these faster; none leave them in fp32.
        only_faster: whether a graph that is no faster stays in fp32 whole.
        device: where ranges and times are measured.

    Attributes:
        ladders: the forms of each layer, the one to start from first.

    Raises:
        PluginError: if the graph has been optimized or quantized already.
    """

    def __init__(
        self,
        source: Path,
        precision: str,
        reduce_range: bool,
        feeds: Sequence[Feeds] = (),
        only_faster: bool = False,
        *,
        device: Device,
    ):
        self._source = source
        self._device = device
        self._reduce_range = reduce_range
        editor = Editor(self._model())
        self.ladders: Dict[Layer, Tuple[str, ...]] = {}
        for layer in find_layers(editor.model):
            if layer.kind == PRODUCT:
                self.ladders[layer] = LADDERS[precision]
            elif precision == "int8" and self._pays(editor, layer, bool(feeds)):
                self.ladders[layer] = ("int8", FP32)
        self._ranges = self._calibrate(editor, feeds)
        if self._ranges and not self._faster(feeds, (CONVOLUTION,)):
            logger.info("%s: its convolutions are faster in fp32", source.stem)
            self.ladders = {
                layer: forms
                for layer, forms in self.ladders.items()
                if layer.kind != CONVOLUTION
            }
        if only_faster and self.ladders and feeds:
            if not self._faster(feeds, (PRODUCT, RECURRENT, CONVOLUTION)):
                logger.info("%s: it is faster in fp32", source.stem)
                self.ladders = {}

    def _faster(self, feeds: Sequence[Feeds], kinds: Sequence[str]) -> bool:
        """Whether this machine runs the graph faster with such layers lowered."""
        low = {layer.name: forms[0] for layer, forms in self.ladders.items()}
        high = {x.name: FP32 for x in self.ladders if x.kind in kinds}
        longest = max(feeds, key=lambda feed: sum(x.size for x in feed.values()))
        with tempfile.TemporaryDirectory() as work:
            paths = [Path(work) / f"{side}.onnx" for side in ("low", "high")]
            for path, forms in zip(paths, (low, {**low, **high})):
                self.write(forms, path)
            return is_faster(*paths, longest, self._device)

    @staticmethod
    def _pays(editor: Editor, layer: Layer, calibrated: bool) -> bool:
        """Whether int8 is for a layer that is no product."""
        if layer.kind == RECURRENT:
            return True
        return calibrated and convolutions.pays(editor, editor.node(layer.output))

    def _model(self) -> onnx.ModelProto:
        model = load_rewritten(self._source, "cpu")
        gemms_to_products(model)
        return model

    def _calibrate(self, editor: Editor, feeds: Sequence[Feeds]) -> Dict[str, Range]:
        """Ranges of what convolutions take and give."""
        names: List[str] = []
        for layer in self.ladders:
            if layer.kind == CONVOLUTION:
                node = editor.node(layer.output)
                names += [node.input[0], convolutions.result(editor, node)]
        if not names:
            return {}
        names = sorted(set(names))
        editor.model.graph.output.extend(map(make_empty_tensor_value_info, names))
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / self._source.name
            save_graph(editor.model, path)
            session = open_graph(path, self._device)
        known = {entry.name for entry in session.get_inputs()}
        ranges: Dict[str, Range] = {}
        for feed in feeds:
            inputs = {name: value for name, value in feed.items() if name in known}
            for name, value in zip(names, session.run(names, inputs)):
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = (min(low, value.min()), max(high, value.max()))
        return ranges

    def _lower(
        self, editor: Editor, layer: Layer, form: str, quantized: Dict[str, List[str]]
    ) -> Replacement:
        node = editor.node(layer.output)
        if layer.kind == CONVOLUTION:
            return convolutions.static_int8(
                editor, node, self._ranges, quantized, self._reduce_range
            )
        if layer.kind == RECURRENT:
            return recurrent.dynamic_int8(editor, node, self._reduce_range)
        if form == "int8":
            return products.dynamic_int8(editor, node, quantized, self._reduce_range)
        return products.in_blocks(editor, node, _BITS[form])

    def write(self, forms: Mapping[str, str], target: Path) -> None:
        """Write the graph, fused, with each layer in the form that its name has."""
        model = self._model()
        editor = Editor(model)
        new: Replacement = {}
        # Apart, because ranges that are static and dynamic ones differ.
        quantized: Dict[str, Dict[str, List[str]]] = {}
        for layer in self.ladders:
            if forms[layer.name] != FP32:
                known = quantized.setdefault(layer.kind, {})
                new.update(self._lower(editor, layer, forms[layer.name], known))
        editor.replace(new)
        _fused(model, target)

    def write_probe(self, form: str, target: Path) -> List[Layer]:
        """Write the graph with a switch at every layer that has a form.

        Its additional input ``switches``, bool (layers,), tells which layers take the
        form; the others stay in fp32.

        Returns:
            The layers, in the order of the switches.
        """
        model = self._model()
        editor = Editor(model)
        layers = [layer for layer, forms in self.ladders.items() if form in forms]
        new: Replacement = {}
        for i, layer in enumerate(layers):
            lowered = self._lower(editor, layer, form, {})
            new.update(editor.switched(lowered, SWITCHES, i))
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(
                SWITCHES, onnx.TensorProto.BOOL, [len(layers)]
            )
        )
        editor.replace(new)
        _import_microsoft(model)
        save_graph(model, target)
        return layers


def _import_microsoft(model: onnx.ModelProto) -> None:
    if all(entry.domain != products.MICROSOFT for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(products.MICROSOFT, 1))


def _fused(model: onnx.ModelProto, target: Path) -> None:
    _import_microsoft(model)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        plain = Path(work) / target.name
        save_graph(model, plain)
        for file in (target, weights_path(target)):
            file.unlink(missing_ok=True)  # what is open now stays as it was
        fuse_graph(plain, target, "cpu")
