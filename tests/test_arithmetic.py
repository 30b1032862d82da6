"""8-bit products give the same on every processor."""

import json
import logging
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
)

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import TokenBudget
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.quantize import quantize as quantization
from espnet_onnx_plugin.quantize.forms import SWITCHES
from espnet_onnx_plugin.quantize.lowering import calibrate_graph
from espnet_onnx_plugin.runtime.core import arithmetic
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph
from espnet_onnx_plugin.runtime.io.data import Source

ROOT = Path(__file__).parents[1]
SIZE = 16
FREE = TokenBudget(max_wer_increase=100.0, min_token_agreement=0.0)


@pytest.fixture(autouse=True)
def int8_is_faster(monkeypatch):
    """At these sizes chance would tell."""
    monkeypatch.setattr(lowering, "is_faster", lambda *args: True)


@pytest.fixture
def eight_bits(monkeypatch):
    """Bundles have the weights that they get where products do not saturate."""
    monkeypatch.setattr(quantization, "products_saturate", lambda: False)


def test_the_probe_is_what_onnx_makes():
    graph = make_graph(
        [make_node("MatMulInteger", ["a", "b", "za", "zb"], ["c"])],
        "",
        [make_tensor_value_info("a", onnx.TensorProto.UINT8, ["m", 2])],
        [make_tensor_value_info("c", onnx.TensorProto.INT32, ["m", 1])],
        [
            numpy_helper.from_array(np.full((2, 1), 127, np.int8), "b"),
            numpy_helper.from_array(np.array(0, np.uint8), "za"),
            numpy_helper.from_array(np.array(0, np.int8), "zb"),
        ],
    )
    opsets = [make_opsetid("", 13)]
    model = make_model(graph, opset_imports=opsets, ir_version=7, producer_name="")
    assert arithmetic.PROBE == model.SerializeToString()


def model_of(nodes, shape, **weights):
    graph = make_graph(
        nodes,
        "g",
        [make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)


def weight(*shape):
    return np.random.default_rng(len(shape)).uniform(0.5, 1.0, shape).astype(np.float32)


def chain(operator, names, shape, *of_weights):
    """Nodes one after the other, each with a Relu."""
    nodes, last = [], "x"
    for i, name in enumerate(names):
        output = "y" if i + 1 == len(names) else f"h{i}"
        nodes += [
            make_node(operator, [last, name], [f"p{i}"]),
            make_node("Relu", [f"p{i}"], [output]),
        ]
        last = output
    return model_of(nodes, shape, **{name: weight(*of_weights) for name in names})


def products(*names):
    return chain("MatMul", names, [None, SIZE], SIZE, SIZE)


def convolutions(*names):
    return chain("Conv", names, [1, SIZE, None, 9], SIZE, SIZE, 3, 3)


def recurrent(*names):
    """LSTM layers one after the other, of one direction, with one recurrent weight."""
    nodes, last = [], "x"
    for i, name in enumerate(names):
        output = "y" if i + 1 == len(names) else f"h{i}"
        nodes += [
            make_node("LSTM", [last, name, "r"], [f"l{i}"], hidden_size=SIZE),
            make_node("Squeeze", [f"l{i}", "axis"], [output]),
        ]
        last = output
    weights = {name: weight(1, 4 * SIZE, SIZE) / 99 for name in names}
    weights.update(r=weight(1, 4 * SIZE, SIZE) / 99, axis=np.array([1], np.int64))
    return model_of(nodes, [None, 1, SIZE], **weights)


SHAPES = {products: (3, SIZE), convolutions: (1, SIZE, 9, 9), recurrent: (4, 1, SIZE)}


@pytest.mark.parametrize("names", [("w", "v"), ("w", "w")], ids=["own", "shared"])
@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_no_product_saturates(tmp_path, make, names):
    """All inputs and weights are large and positive, where saturation costs most."""
    save_graph(ir.from_proto(make(*names)), tmp_path / "fp32.onnx")
    x = np.random.default_rng(0).uniform(0.9, 1.0, SHAPES[make]).astype(np.float32)
    source = tmp_path / "fp32.onnx"
    lowered = calibrate_graph(source, "int8", False, Device(), [{"x": x}])
    low = {layer.name: forms[0] for layer, forms in lowered.ladders.items()}
    assert set(low.values()) == {"int8"} and len(low) == 2
    lowered.write(low, tmp_path / "int8.onnx")
    weights = load_graph(tmp_path / "int8.onnx").graph.initializers.values()
    assert ir.DataType.INT8 in {weight.dtype for weight in weights}
    layers = lowered.write_probe("int8", tmp_path / "probe.onnx")
    fp32, int8, probe = (
        open_graph(tmp_path / f"{name}.onnx", Device())
        for name in ("fp32", "int8", "probe")
    )
    [expected] = fp32.run(None, {"x": x})
    [ours] = int8.run(None, {"x": x})
    np.testing.assert_allclose(ours, expected, rtol=0.03)
    [switched] = probe.run(None, {"x": x, SWITCHES: np.ones(len(layers), bool)})
    np.testing.assert_allclose(switched, expected, rtol=0.03)


def test_blocks_of_a_shared_weight_are_shared(tmp_path):
    save_graph(ir.from_proto(products("w", "w")), tmp_path / "fp32.onnx")
    lowered = calibrate_graph(tmp_path / "fp32.onnx", "weight8", False, Device())
    forms = {layer.name: "weight8" for layer in lowered.ladders}
    lowered.write(forms, tmp_path / "weight8.onnx")
    weights = load_graph(tmp_path / "weight8.onnx").graph.initializers.values()
    assert len(forms) == 2
    assert [weight.dtype for weight in weights].count(ir.DataType.UINT8) == 1


def test_weights_have_seven_bits_where_products_saturate(tiny, tmp_path, monkeypatch):
    for saturate in (False, True):
        monkeypatch.setattr(
            quantization, "products_saturate", lambda found=saturate: found
        )
        bundle = quantization.quantize(
            read_bundle(tiny["bundle"]), tmp_path / str(saturate)
        )
        assert bundle.manifest.reduced_range == saturate
        largest = max(
            np.abs(weight.const_value.numpy()).max()
            for weight in load_graph(
                bundle.file("decoder.onnx")
            ).graph.initializers.values()
            if weight.dtype == ir.DataType.INT8
        )
        assert largest == (63 if saturate else 127)


def test_a_bundle_that_runs_slower_says_so_once(
    tiny, tmp_path, monkeypatch, caplog, eight_bits
):
    import espnet_onnx_plugin

    int8 = quantization.quantize(read_bundle(tiny["bundle"]), tmp_path / "int8")
    for saturate in (False, True):
        monkeypatch.setattr(
            arithmetic, "products_saturate", lambda found=saturate: found
        )
        arithmetic._tell_wide.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for path in (tiny["bundle"], int8.path, int8.path):
                espnet_onnx_plugin.Speech2Text(path)
        assert caplog.text.count("computed in 16 bits") == saturate
        name = arithmetic.arithmetic(int8.manifest)
        assert name == ("int8 in 16 bits" if saturate else "int8")
        assert arithmetic.arithmetic(read_bundle(tiny["bundle"]).manifest) == "fp32"


def test_an_onnxruntime_that_cannot_avoid_saturation_is_refused(monkeypatch):
    arithmetic.products_saturate.cache_clear()
    monkeypatch.setattr(arithmetic, "_is_exact", lambda wide: False)
    with pytest.raises(PluginError, match="use the optimized or fp32 bundle"):
        arithmetic.products_saturate()


DECODE = """
import json, sys
import numpy as np
import espnet_onnx_plugin
from espnet_onnx_plugin.runtime.core.arithmetic import products_saturate
options = dict(beam_size=2, ctc_weight=0.3, maxlenratio=-4.0)
speech2text = espnet_onnx_plugin.Speech2Text(sys.argv[1], **options)
speech = 0.2 * np.random.default_rng(0).standard_normal(4000)
results = speech2text(speech)
print(json.dumps([products_saturate(), [float(r[3].score) for r in results]]))
"""


QEMU = shutil.which("qemu-x86_64")


@pytest.mark.skipif(
    QEMU is None or platform.machine() != "x86_64",
    reason="needs an x86-64 machine and qemu-x86_64: apt-get install qemu-user",
)
def test_an_int8_bundle_scores_alike_on_other_processors(tiny, tmp_path, eight_bits):
    """Haswell has AVX2 and no VNNI; onnxruntime's kernels for Nehalem are exact."""
    audio = RecognitionEvaluator(Source(tiny["data"] / "wav.scp", "sound"))
    bundle = quantization.quantize(
        read_bundle(tiny["bundle"]), tmp_path / "int8", "int8", audio, FREE
    )
    found = {}
    for processor in ("Haswell", "Nehalem"):
        command = [QEMU, "-cpu", processor, sys.executable, "-c", DECODE]
        ran = subprocess.run(
            [*command, str(bundle.path)],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert ran.returncode == 0, ran.stderr
        found[processor] = json.loads(ran.stdout)
    assert [saturate for saturate, _ in found.values()] == [True, False]
    scores = [scores for _, scores in found.values()]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
