"""Rules for convolutions over time: they match, and what they make is equal."""

import numpy as np
import onnx
import pytest
import torch
from test_rules import assert_same

from espnet_onnx_plugin.export.graph import export_graph
from espnet_onnx_plugin.graph_file import load_graph
from espnet_onnx_plugin.optimize.fuse import count_nodes, optimize_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules

CHANNELS = 16


class Vocoder(torch.nn.Module):
    """What ESPnet's vocoders and postnets are made of, at one size of channels."""

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
        self.norm = torch.nn.BatchNorm1d(2 * CHANNELS)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.skip = conv(CHANNELS, 1)
        self.out = torch.nn.Conv1d(2 * CHANNELS, 1, 7, padding=3)

    def forward(self, x):
        x = x.transpose(0, 1).unsqueeze(0)
        for up, block in zip(self.ups, self.blocks):
            x = up(torch.nn.functional.leaky_relu(x, 0.1))
            x = x + block(torch.nn.functional.leaky_relu(x, 0.1)) / 3
        a, b = self.norm(self.gate(x)).chunk(2, dim=1)
        x = torch.cat([self.skip(torch.tanh(a) * torch.sigmoid(b)), x], dim=1)
        return torch.tanh(self.out(torch.relu(x)))


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocoder") / "vocoder.onnx"
    torch.manual_seed(0)
    inputs, outputs = {"x": ("time", CHANNELS)}, {"y": (1, 1, "samples")}
    example = [torch.randn(6, CHANNELS)]
    export_graph(Vocoder().eval(), example, inputs, outputs, path)
    return path


def feeds():
    random = np.random.default_rng(0)
    for frames in (9, 2):
        yield {"x": random.standard_normal((frames, CHANNELS)).astype(np.float32)}


@pytest.mark.parametrize(
    "names, matches",
    [
        (("transposed_conv",), (3,)),
        (("conv1d",), (5,)),
        (("transposed_conv", "conv1d"), (3, 5)),
    ],
)
def test_vocoder(vocoder, names, matches):
    model = load_graph(vocoder)
    rules = tuple(rule for rule in RULES if rule.name in names)
    rewritten, counts = apply_rules(model, "cpu", rules)
    onnx.checker.check_model(rewritten)
    assert counts == dict(zip(names, matches))
    for feed in feeds():
        assert_same(model, rewritten, feed)
    _, again = apply_rules(rewritten, "cpu", rules)
    assert again == dict.fromkeys(names, 0)


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
    names = {n.input[1] for n in rewritten.graph.node if n.op_type == "Conv"}
    modules = {name.partition(".weight")[0] for name in names}
    assert {"ups.1", "blocks.2", "skip", "out"} <= modules
