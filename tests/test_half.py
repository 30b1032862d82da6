"""16 bits: what they do not hold stays in float32, and a CPU imitates the rest."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from espnet_onnx_plugin.bundle import Graph, State, Tensor
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.evaluate.graphs import Differences, difference
from espnet_onnx_plugin.optimize.editor import Editor
from espnet_onnx_plugin.quantize.emulation import emulate_graph
from espnet_onnx_plugin.quantize.half import (
    FORMATS,
    convert,
    infer_types,
    nodes_in_half,
)
from espnet_onnx_plugin.quantize.half_lowering import ACTIVATIONS, calibrate_half
from espnet_onnx_plugin.quantize.half_states import half_ends, with_half_states
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

FP16 = FORMATS["fp16"]
RANDOM = np.random.default_rng(0)
WEIGHTS = (RANDOM.standard_normal((4, 4)) / 2).astype(np.float32)

#: How far a tiny model with random weights may be from itself in float16.
HALF = 0.02

NAMES = ("half", "emulated")

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

AXIS = dict(axis=np.array(1), axes=np.array([-1]))


def parse(inputs, nodes, **constants):
    """A graph whose output is y; constants are float32 unless they are integers."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => (float y) '
        f"{{ {nodes} }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, array in {"w": WEIGHTS, **AXIS, **constants}.items():
        array = np.asarray(array)
        array = array if array.dtype == np.int64 else array.astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(model)


def run(path, feeds):
    [result] = open_graph(path, Device()).run(["y"], feeds)
    return result


def differences_in_half(bundle, recorder):
    """Differences of each graph in float16 from itself, on what it was fed."""
    worst = Differences()
    for role, graph in with_half_states(bundle.manifest.graphs, FP16).items():
        source, feeds = bundle.file(graph.file.name), recorder.by_role.get(role)
        if not feeds:
            continue
        lowering = calibrate_half(source, "fp16", half_ends(graph), Device(), feeds)
        if not lowering.ladders:
            continue
        half, emulated = (source.with_name(f"{n}_{role}.onnx") for n in NAMES)
        lowering.write({x.name: "fp16" for x in lowering.ladders}, half)
        open_graph(half, Device())  # its types are those that its operators take
        emulate_graph(half, emulated)
        sides = [open_graph(path, Device()) for path in (emulated, source)]
        for feed in feeds[:3]:
            results = (
                side.run(
                    list(graph.outputs),
                    {
                        entry.name: feed[entry.name].astype(TYPES[entry.type])
                        for entry in side.get_inputs()
                    },
                )
                for side in sides
            )
            for ours, expected in zip(*results, strict=True):
                # Masks are half of the lowest number.
                expected = np.maximum(expected, -FP16.largest / 2)
                worst.add(role, ours, expected)
    return worst


class Case:
    """A graph in fp32 and in 16 bits, with the nodes that compute in them."""

    def __init__(self, path, inputs, nodes, precision="fp16", **constants):
        self._path = path
        model = parse(inputs, nodes, **constants)
        save_graph(model, path / "fp32.onnx")
        editor = Editor(load_graph(path / "fp32.onnx"))
        infer_types(editor.model)
        form = FORMATS[precision]
        chosen = nodes_in_half(editor.graph, form)
        self.operators = [node.op_type for node in chosen]
        convert(editor, chosen, form)
        save_graph(editor.model, path / "half.onnx")
        emulate_graph(path / "half.onnx", path / "emulated.onnx")

    def __call__(self, x, **others):
        """Results in fp32, and in 16 bits as a GPU has them."""
        feeds = {"x": x, **others}
        return tuple(
            run(self._path / f"{name}.onnx", feeds) for name in ("fp32", "emulated")
        )


@pytest.fixture
def case(tmp_path):
    return lambda *args, **constants: Case(tmp_path, *args, **constants)


# The emulation


def test_a_cpu_rounds_every_result(case):
    """onnxruntime's own emulation keeps 100 * 1000 / 1000 = 100."""
    graph = case(
        "float[N,4] x",
        "a = MatMul(x, w) b = Mul(a, big) c = Add(b, b) y = Div(c, big)",
        w=np.eye(4),
        big=1000.0,
    )
    assert graph.operators == ["MatMul", "Mul", "Add", "Div"]
    x = np.array([[10.001, 20, 40, 100]], np.float32)
    _, ours = graph(x)
    with np.errstate(over="ignore"):
        scaled = np.float16(x) * np.float16(1000)
        expected = (scaled + scaled) / np.float16(1000)
    assert ours.tolist() == expected.astype(np.float32).tolist()
    assert np.isinf(ours).any() and ours[0, 0] != 2 * x[0, 0]


def test_a_cpu_rounds_bfloat16_too(case):
    graph = case("float[N,4] x", "y = MatMul(x, w)", "bf16", w=np.eye(4))
    assert graph.operators == ["MatMul"]
    _, ours = graph(np.array([[1.001, 1.01, 3e38, 0.3]], np.float32))
    expected = np.array([1.0, 1.0078125, 3e38, 0.3])
    np.testing.assert_allclose(ours[0], expected, rtol=2.0**-8)
    assert ours[0, :2].tolist() == expected[:2].tolist()


def test_what_has_no_kernel_for_bfloat16_stays(case):
    inputs = "float[N,4] x"
    nodes = "t = MatMul(x, w) u = Reshape(t, shape) y = Conv(u, kernel)"
    constants = dict(shape=np.array([1, 1, -1, 4]), kernel=np.ones((1, 1, 1, 1)))
    assert "Conv" in case(inputs, nodes, **constants).operators
    assert case(inputs, nodes, "bf16", **constants).operators == ["MatMul", "Reshape"]


# What float16 does not hold


@pytest.mark.parametrize(
    "nodes",
    [
        "b = Where(mask, lowest, a) y = Softmax(b)",
        # A bias that layers share.
        "m = Where(mask, lowest, zero) b = Add(a, m) y = Softmax(b)",
        # And one that is made of numbers.
        "f = Cast<to=1>(mask) m = Mul(f, lowest) b = Add(a, m) y = Softmax(b)",
    ],
)
def test_a_row_without_a_valid_key_has_numbers(case, nodes):
    lowest = float(np.finfo(np.float32).min)
    graph = case(
        "float[N,4] x, bool[N,4] mask",
        f"a = MatMul(x, w) {nodes}",
        w=np.eye(4),
        lowest=lowest,
        zero=0.0,
    )
    x = RANDOM.standard_normal((2, 4)).astype(np.float32) - 50
    mask = np.array([[True] * 4, [False, True, False, True]])
    expected, ours = graph(x, mask=mask)
    assert np.isfinite(ours).all()
    assert (ours[1][mask[1]] == 0).all()
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-2)


LONG = 5000


@pytest.mark.parametrize(
    "nodes, x, allowed",
    [
        # Positions, lengths, sums over many frames.
        ("p = Cast<to=1>(n) q = Mul(p, step) s = Sin(q) y = Add(s, zero)", None, 0),
        ("a = MatMul(x, w) y = CumSum(a, axis0)", np.ones((LONG, 4)), 0),
        ("a = MatMul(x, w) y = ReduceSum(a, axis0s)", np.full((LONG, 4), 30), 0),
        # Sums of squares, variances, small divisors.
        ("a = MatMul(x, w) b = Mul(a, a) y = ReduceMean(b, axes)", [300, 1, 2, 3], 0),
        ("a = MatMul(x, w) b = Pow(a, two) y = ReduceSum(b, axes)", [300, 1, 2, 3], 0),
        (
            "a = MatMul(x, w) m = ReduceMean(a, axes) d = Sub(a, m) s = Mul(d, d) "
            "v = ReduceMean(s, axes) e = Add(v, small) r = Sqrt(e) y = Div(d, r)",
            [500, 300, -700, 1e-3],
            2e-3,
        ),
        ("a = MatMul(x, w) m = ReduceL2(a, axes) y = Div(a, m)", [300, 1, 2, 3], 1e-3),
        # Exponentials and logarithms.
        ("a = MatMul(x, w) y = Exp(a)", [12, 13, 1, 0], 0),
        ("a = MatMul(x, w) b = Exp(a) y = Log(b)", [12, 13, -13, 0], 1e-6),
        ("a = MatMul(x, w) y = LogSoftmax(a)", [0, -9, 5, 9], 1e-6),
        # The spectrum of a quiet signal.
        (
            "a = MatMul(x, w) b = Mul(a, a) m = MatMul(b, w) c = Add(m, small) "
            "y = Log(c)",
            [1e-5, 2e-4, 1e-2, 300],
            1e-6,
        ),
    ],
)
def test_what_needs_float32_has_it(case, nodes, x, allowed):
    count = np.arange(0, LONG, 7)
    graph = case(
        "float[N,4] x",
        nodes,
        w=np.eye(4),
        n=count,
        step=0.01,
        zero=0.0,
        two=2.0,
        small=1e-12,
        axis0=np.array(0),
        axis0s=np.array([0]),
    )
    array = np.zeros((1, 4)) if x is None else np.asarray(x)
    expected, ours = graph(np.float32(array.reshape(-1, 4)))
    assert np.isfinite(ours).all()
    assert difference(ours, expected) <= allowed


@pytest.mark.parametrize("outlier", [1e5, 1e-9])
def test_weights_that_are_lost_stay_in_float32(case, outlier):
    graph = case(
        "float[N,4] x", "a = MatMul(x, w) y = MatMul(a, v)", v=outlier * WEIGHTS
    )
    assert graph.operators == ["MatMul"]
    expected, ours = graph(np.float32(RANDOM.standard_normal((3, 4))))
    assert difference(ours, expected) < 2e-3


def test_layers_in_a_row_have_no_casts_between_them(case, tmp_path):
    case(
        "float[N,4] x",
        "a = MatMul(x, w) b = Add(a, c) s = Sigmoid(b) m = Mul(b, s) "
        "n = LayerNormalization(m, c, c) y = MatMul(n, w)",
        c=np.ones(4),
    )
    operators = [node.op_type for node in load_graph(tmp_path / "half.onnx").graph]
    assert operators.count("Cast") == 2 and operators[0] == operators[-1] == "Cast"


def test_a_transpose_before_a_product_has_no_cast_behind_it(case, tmp_path):
    """In a row, onnxruntime fuses the three for CUDA to a node that it lacks."""
    graph = case(
        "float[N,4] x", "e = Exp(x) t = Transpose<perm=[1,0]>(e) y = MatMul(t, x)"
    )
    nodes = load_graph(tmp_path / "half.onnx").graph
    [transpose] = [node for node in nodes if node.op_type == "Transpose"]
    assert transpose.inputs[0].producer().op_type == "Cast"
    assert [n.op_type for n in transpose.outputs[0].consumers()] == ["MatMul"]
    expected, ours = graph(np.float32(RANDOM.standard_normal((3, 4))))
    assert difference(ours, expected) < 2e-3


def test_a_constant_that_is_a_node_is_one_like_others(case):
    graph = case(
        "float[N,4] x",
        "a = MatMul(x, w) half = Constant<value_float=0.5>() y = Min(a, half)",
    )
    assert graph.operators == ["MatMul", "Min"]
    expected, ours = graph(np.float32(RANDOM.standard_normal((3, 4))))
    assert difference(ours, expected) < 2e-3


# Layers


def test_large_activations_are_found_on_audio(tmp_path):
    """A feed-forward layer of some real checkpoints exceeds 65504."""
    model = parse(
        "float[N,4] x",
        "a = MatMul(x, up) b = Relu(a) c = MatMul(b, down) d = Add(c, x) "
        "y = MatMul(d, w)",
        up=1e4 * np.eye(4),
        down=1e-4 * np.eye(4),
    )
    source, target = tmp_path / "fp32.onnx", tmp_path / "half.onnx"
    save_graph(model, source)
    x = np.float32([[1, 2, 10, 20]])
    expected = run(source, {"x": x})
    forms = {}
    for feeds in ([], [{"x": x}]):
        lowering = calibrate_half(source, "fp16", (), Device(), feeds)
        forms = {layer.name: "fp16" for layer in lowering.ladders}
        lowering.write(forms, target)
        emulate_graph(target, tmp_path / "emulated.onnx")
        ours = run(tmp_path / "emulated.onnx", {"x": x})
        assert np.isfinite(ours).all() == bool(feeds)
    assert difference(ours, expected) < 2e-3
    assert lowering.large and ACTIVATIONS in lowering.ladders


def test_a_layer_is_switched_and_kept_by_its_name(tmp_path):
    model = parse("float[N,4] x", "a = MatMul(x, w) b = Relu(a) y = MatMul(b, w)")
    source, target = tmp_path / "fp32.onnx", tmp_path / "half.onnx"
    save_graph(model, source)
    lowering = calibrate_half(source, "fp16", (), Device())
    activations, first, second = lowering.ladders
    assert activations is ACTIVATIONS
    probed = lowering.write_probe("fp16", target)
    assert probed == [activations, first, second]
    x = np.float32(RANDOM.standard_normal((3, 4)))
    results = []
    for switches in (*np.eye(3, dtype=bool), np.zeros(3, bool), np.ones(3, bool)):
        results.append(run(target, {"x": x, "switches": switches}))
    expected = run(source, {"x": x})
    assert all((result != expected).any() for result in (*results[:3], results[4]))
    assert (results[3] == expected).all()

    def written(*kept):
        forms = {x.name: "fp32" if x in kept else "fp16" for x in lowering.ladders}
        lowering.write(forms, target)
        emulate_graph(target, tmp_path / "emulated.onnx")
        return run(tmp_path / "emulated.onnx", {"x": x})

    np.testing.assert_array_equal(written(), results[4])
    np.testing.assert_array_equal(written(*lowering.ladders), expected)
    np.testing.assert_array_equal(written(first, second), expected)
    np.testing.assert_array_equal(written(activations, second), results[1])


# States


def test_the_states_of_a_search_are_half_as_large():
    row = dict(tokens=Tensor("int64", ("utterances", "hypotheses")))
    keys = Tensor("float32", ("utterances", "frames", 8))
    step = Graph(
        None,
        None,
        {**row, "memory_k": keys},
        {"log_probs": Tensor("float32", ("rows", 9))},
        {
            "self_k": State("float32", (2, "nodes", 4)),
            "at": State("int64", ("nodes",)),
        },
    )
    memory = Graph(None, None, {"encoder_out": keys}, {"memory_k": keys})
    graphs = {"decoder": step, "decoder_memory": memory, "encoder": memory}
    entries = with_half_states(graphs, FP16)
    assert half_ends(entries["decoder"]) == {"memory_k", "self_k", "next_self_k"}
    assert half_ends(entries["decoder_memory"]) == {"memory_k"}
    assert half_ends(entries["encoder"]) == set()
    assert entries["decoder"].states["at"].dtype == "int64"
    assert with_half_states(graphs, FORMATS["bf16"]) == graphs
