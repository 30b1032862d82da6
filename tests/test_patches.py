"""Patches are in force for the time of a block, and leave nothing behind."""

import types

import numpy as np
import onnxruntime
import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.graph import GraphSpec, write_graph
from espnet_onnx_plugin.export.patches import one_operator_table, replaced, small_masks


class Base:
    def inherited(self):
        return "old"

    @staticmethod
    def static():
        return "old"


class Derived(Base):
    pass


@pytest.mark.parametrize(
    "owner, name",
    [
        (Base, "inherited"),
        (Base, "static"),
        (Derived, "inherited"),
        (Base(), "inherited"),
        (types.SimpleNamespace(own="old"), "own"),
    ],
)
def test_what_was_replaced_is_back_also_after_an_exception(owner, name):
    before = dict(vars(owner))
    with pytest.raises(KeyError), replaced(owner, name, "new"):
        assert getattr(owner, name) == "new"
        raise KeyError
    assert dict(vars(owner)) == before
    with pytest.raises(AttributeError), replaced(owner, "nonesuch", "new"):
        pass


def test_the_exporters_table_is_made_once():
    before = vars(ONNXRegistry)["from_torchlib"]
    with one_operator_table():
        assert ONNXRegistry.from_torchlib() is ONNXRegistry.from_torchlib()
    assert vars(ONNXRegistry)["from_torchlib"] is before


def test_guards_against_zeros_stay_in_graphs(tmp_path):
    """A number as small as those that onnxscript takes for 0 is still added."""
    graph = GraphSpec(
        _Guarded().eval(),
        {"x": Tensor("float32", ("frames", 3))},
        {"y": Tensor("float32", ("frames", 3))},
    )
    write_graph(graph, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    [y] = session.run(None, {"x": np.zeros((5, 3), np.float32)})
    assert (y == 0).all()


class _Guarded(torch.nn.Module):
    def forward(self, x):
        return x / (x.abs() + 1e-8)


def test_small_masks_are_espnets():
    """Alone, of a waveform, and of features."""
    nets_utils = import_nets("pytorch_backend.nets_utils")
    lengths = torch.tensor([3, 5])
    cases = [(), (torch.zeros(2, 5), 1), (torch.zeros(2, 5, 4), 1)]
    expected = [nets_utils.make_pad_mask(lengths, *case) for case in cases]
    with small_masks():
        made = [nets_utils.make_pad_mask(lengths, *case) for case in cases]
    for mask, other in zip(made, expected, strict=True):
        assert torch.equal(mask.bool(), other.bool())
    assert nets_utils.make_pad_mask(lengths).shape == (2, 5)
