"""Convolutions over time, as vocoders are made of them: their rules and their int8."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx_ir.passes.common import CheckerPass
from test_rules import assert_same, parse

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.export.graph import GraphSpec, export_graph
from espnet_onnx_plugin.optimize.editor import Editor
from espnet_onnx_plugin.optimize.fuse import count_nodes, optimize_graph
from espnet_onnx_plugin.optimize.rules import minimal_filtering
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.quantize.sensitivity import rank
from espnet_onnx_plugin.runtime.core.device import Device

CHANNELS = 32
DEVICE = Device()


class Vocoder(torch.nn.Module):
    """The layers of ESPnet's vocoders and postnets, at one size of channels."""

    def __init__(self):
        super().__init__()

        def conv(outputs, width, **options):
            return torch.nn.Conv1d(CHANNELS, outputs, width, **options)

        def up(width, stride, **options):
            return torch.nn.ConvTranspose1d(
                CHANNELS, CHANNELS, width, stride, **options
            )

        self.ups = torch.nn.ModuleList(
            [
                up(8, 4, padding=2),
                up(6, 3, padding=2, output_padding=1, bias=False),
                up(5, 2),  # a width that is no multiple of the stride
            ]
        )
        self.blocks = torch.nn.ModuleList(
            conv(CHANNELS, 3, padding=d, dilation=d) for d in (1, 3, 5)
        )
        self.gate = conv(2 * CHANNELS, 5, padding=2)
        self.norm = torch.nn.BatchNorm1d(CHANNELS)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.skip = conv(CHANNELS, 1)
        self.out = torch.nn.Conv1d(2 * CHANNELS, 1, 7, padding=3)

    def forward(self, x):
        x = x.transpose(0, 1).unsqueeze(0)
        for up, block in zip(self.ups, self.blocks):
            x = up(torch.nn.functional.leaky_relu(x, 0.1))
            x = x + block(torch.nn.functional.leaky_relu(x, 0.1)) / 3
        a, b = self.gate(x).chunk(2, dim=1)
        gated = self.norm(self.skip(torch.tanh(a) * torch.sigmoid(b)))
        x = torch.cat([gated, x], dim=1)
        return torch.tanh(self.out(torch.relu(x)))


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocoder") / "vocoder.onnx"
    torch.manual_seed(0)
    inputs = {"x": Tensor("float32", ("time", CHANNELS))}
    outputs = {"y": Tensor("float32", (1, 1, "samples"))}
    spec = GraphSpec(Vocoder().eval(), inputs, outputs, sizes={"time": 6})
    export_graph(spec, path)
    return path


def names_of(model):
    return [value.name for node in model.graph for value in node.outputs]


def feeds():
    random = np.random.default_rng(0)
    for frames in (9, 2):
        yield {"x": random.standard_normal((frames, CHANNELS)).astype(np.float32)}


@pytest.mark.parametrize(
    "names, matches",
    [
        (("transposed_conv",), (3,)),
        (("conv1d",), (5,)),
        (("split_conv",), (1,)),
        (("split_conv", "transposed_conv", "conv1d"), (1, 3, 6)),
    ],
)
def test_vocoder(vocoder, names, matches):
    model = load_graph(vocoder)
    rules = tuple(rule for rule in RULES if rule.name in names)
    rewritten, counts = apply_rules(model, "cpu", rules)
    CheckerPass()(rewritten)
    assert counts == dict(zip(names, matches))
    for feed in feeds():
        assert_same(model, rewritten, feed)
    _, again = apply_rules(rewritten, "cpu", rules)
    assert again == dict.fromkeys(names, 0)


def test_minimal_filtering(vocoder, monkeypatch):
    """Equal for odd lengths too, and few values."""
    model = load_graph(vocoder)
    rules = tuple(rule for rule in RULES if rule.name == "minimal_filtering")
    # With few channels the transforms take more than they save.
    assert apply_rules(model, "cpu", rules)[1] == {"minimal_filtering": 0}
    monkeypatch.setattr(minimal_filtering, "_COST", 0)
    rewritten, counts = apply_rules(model, "cpu", rules)
    CheckerPass()(rewritten)
    assert counts == {"minimal_filtering": 5}  # all but that of width 1
    for feed in feeds():
        assert_same(model, rewritten, feed)
    again = [apply_rules(model, "cpu", rules)[0] for _ in range(5)]
    assert all(names_of(other) == names_of(rewritten) for other in again)
    everything, counts = apply_rules(model, "cpu")
    assert counts["transposed_conv"] == 3
    for feed in feeds():
        assert_same(model, everything, feed)


@pytest.mark.parametrize(
    "convolution, matches",
    [
        ("Conv(u, kernel3)", 1),
        ("Conv<pads=[1, 0]>(u, kernel3)", 1),
        ("Conv<pads=[0, 6], dilations=[3]>(u, kernel3)", 1),
        ("Conv<dilations=[2]>(u, kernel3)", 0),
        ("Conv<strides=[2]>(u, kernel3)", 0),
        ("Conv<pads=[2, 1]>(u, kernel3)", 0),
        ("Conv<group=2>(u, grouped3)", 0),
        ("Conv(u, kernel1)", 0),
        ("Conv(x, kernel3)", 0),  # not upsampled
    ],
)
def test_what_minimal_filtering_takes(monkeypatch, convolution, matches):
    monkeypatch.setattr(minimal_filtering, "_COST", 0)
    rules = tuple(rule for rule in RULES if rule.name == "minimal_filtering")
    nodes = f"u = ConvTranspose<strides=[2]>(x, kernel1) y = {convolution}"
    model = parse("float[1,4,T] x", nodes)
    rewritten, counts = apply_rules(model, "cpu", rules)
    assert counts == {"minimal_filtering": matches}
    random = np.random.default_rng(0)
    for length in (8, 21):
        x = random.standard_normal((1, 4, length)).astype(np.float32)
        assert_same(model, rewritten, {"x": x})


def test_blocks_stay_blocked(vocoder, tmp_path):
    """Nothing leaves two dimensions between a convolution and the next one."""
    optimize_graph(vocoder, tmp_path / "vocoder.onnx", "cpu")
    nodes = count_nodes(tmp_path / "vocoder.onnx")
    assert nodes["ConvTranspose"] == nodes["BatchNormalization"] == 0
    # Into the first and out of the last, and around each of three that are transposed.
    assert nodes["Squeeze"] <= 4 and nodes["Unsqueeze"] <= 5


def test_weights_keep_their_names(vocoder):
    """By them the quantizer calls a layer what ESPnet calls it."""
    rewritten, _ = apply_rules(load_graph(vocoder), "cpu")
    names = {n.inputs[1].name for n in Editor(rewritten).nodes("Conv")}
    modules = [name.partition(".weight.derived")[0] for name in names]
    assert {"ups.1", "blocks.2"} <= set(modules) and modules.count("gate") == 2


# int8


@pytest.fixture(params=[True, False], ids=["faster", "slower"])
def int8_is_faster(request, monkeypatch):
    """The answer to whether this machine's int8 convolutions are faster."""
    asked = []

    def is_faster(path, other, feed, device):
        asked.append([count_nodes(x)["QLinearConv"] for x in (path, other)])
        assert len(feed["x"]) == 9  # the longest
        return request.param

    monkeypatch.setattr(lowering, "is_faster", is_faster)
    yield request.param
    assert asked == [[8, 0]]


def test_int8_where_it_is_faster(vocoder, tmp_path, int8_is_faster):
    inputs = list(feeds())
    found = lowering.calibrate_graph(vocoder, "int8", False, DEVICE, inputs)
    lowered = lowering.keep_faster(found, DEVICE, inputs)
    layers = [layer.name for layer in lowered.ladders]
    forms = {layer.name: forms[0] for layer, forms in lowered.ladders.items()}
    path = tmp_path / "vocoder.onnx"
    lowered.write(forms, path)
    nodes = count_nodes(path)
    if not int8_is_faster:
        assert layers == [] and nodes["QLinearConv"] == 0
        return
    # All but the small ones; what is transposed has become one of them.
    blocks = [f"{x}.{i}" for i in range(3) for x in ("ups", "blocks")]
    assert layers == [*blocks, "gate", "gate+1"]
    assert nodes["QLinearConv"] == 8 and nodes["Conv"] + nodes["FusedConv"] == 2
    sessions = [ort.InferenceSession(str(x)) for x in (vocoder, path)]
    for feed in feeds():
        expected, ours = (session.run(None, feed)[0] for session in sessions)
        error = np.sqrt(np.mean((ours - expected) ** 2) / np.mean(expected**2))
        assert 0 < error < 0.05


def test_the_costliest_convolution_comes_first(vocoder, tmp_path):
    """A channel a thousand times the rest leaves those no step of eight bits."""
    editor = Editor(load_graph(vocoder))
    weight = editor.graph.initializers["gate.weight"]
    factors = np.ones((1, CHANNELS, 1), np.float32)
    factors[:, 0] = 1000
    (gate,) = weight.consumers()
    loud = editor.put("Mul", gate.inputs[0], editor.add_constant(factors))
    gate.replace_input_with(0, loud)
    weight.const_value = ir.tensor(weight.const_value.numpy() / factors)
    editor.tidy()
    path = tmp_path / "hostile.onnx"
    save_graph(editor.model, path)
    inputs = list(feeds())
    lowered = lowering.calibrate_graph(path, "int8", False, DEVICE, inputs)
    steps = rank({"vocoder": lowered}, {"vocoder": ["y"]}, {"vocoder": inputs}, DEVICE)
    assert len(steps) == len(lowered.ladders)
    assert steps[0].layer == "gate" and steps[0].gain > 10 * steps[1].gain
