"""Operators in whose place exported graphs have faster ones."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.graph import GraphModule, export_graph
from espnet_onnx_plugin.export.layers.separation import global_norms

AXES = ("mixtures", 4, "frames")


class Layer(GraphModule):
    """A layer of (mixtures, channels, frames) as a graph."""

    sizes = dict(mixtures=3, frames=11)

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.eval()
        self.inputs = {"x": Tensor("float32", AXES)}
        self.outputs = {"y": Tensor("float32", AXES)}

    def forward(self, x):
        with global_norms():
            return self.layer(x)


def exported(layer, path):
    """Operators of a layer's graph, and what it makes of noise, besides torch's."""
    module = Layer(layer)
    export_graph(module.graph_spec(), path)
    model = onnx.load(path)
    used = {name for node in model.graph.node for name in node.input}
    assert all(constant.name in used for constant in model.graph.initializer)
    noise = np.random.default_rng(0).standard_normal((2, 4, 33)).astype(np.float32)
    [found] = ort.InferenceSession(path).run(None, {"x": noise})
    with torch.no_grad():
        return {n.op_type for n in model.graph.node}, found, layer(torch.tensor(noise))


@pytest.mark.fast
@pytest.mark.parametrize(
    "slopes, operators",
    [([-0.3], {"LeakyRelu"}), ([0.2, -0.1, 1.5, 0.0], {"Relu", "Min", "Mul", "Add"})],
)
def test_prelu_becomes_what_is_fast(tmp_path, slopes, operators):
    layer = torch.nn.PReLU(len(slopes))
    layer.weight.data = torch.tensor(slopes)
    found, ours, theirs = exported(layer, tmp_path / "graph.onnx")
    assert found - {"Constant"} == operators
    assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("shape", ["BDT", "BTD"])
def test_global_norms_are_espnets(tmp_path, shape):
    from espnet2.enh.layers.tcn import GlobalLayerNorm

    layer = GlobalLayerNorm(4, shape=shape)
    for parameter in layer.parameters():
        parameter.data += torch.randn_like(parameter)
    if shape == "BTD":  # (mixtures, frames, channels)
        layer = Transposed(layer)
    found, ours, theirs = exported(layer, tmp_path / "graph.onnx")
    assert "Pow" not in found
    assert np.abs(ours - theirs.numpy()).max() < 1e-6


class Transposed(torch.nn.Module):
    """A layer of (mixtures, frames, channels) over (mixtures, channels, frames)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)
