"""Optimization rules: they match where they should, and what they make is equal."""

from argparse import Namespace

import measure_qdq
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from conftest import TOKENS, asr_config, build_asr, sharpen
from measure_rules import HYPOTHESES, SIZES, measure
from onnx_ir.passes.common import CheckerPass
from torchaudio.models.wav2vec2.components import SelfAttention

from espnet_onnx_plugin.bundle import Tensor, read_bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.export.encoder import EncoderGraph
from espnet_onnx_plugin.export.frontend import (
    audio_specs,
    describe_speech,
    wrap_frontend,
)
from espnet_onnx_plugin.export.graph import GraphSpec, export_graph, export_graphs
from espnet_onnx_plugin.export.layers.ssl_layers import attend
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.optimize.editor import Editor, constant, made_by, only_user
from espnet_onnx_plugin.optimize.fuse import count_nodes, optimize_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules, on_trial
from espnet_onnx_plugin.quantize.emulation import emulate_graph
from espnet_onnx_plugin.quantize.half import (
    FORMATS,
    convert,
    infer_types,
    nodes_in_half,
)
from espnet_onnx_plugin.runtime.core.device import Device

#: Rules for the CPU that must match in the encoder of each case, and how often.
ENCODERS = {
    ("conformer", "latest"): dict(
        pointwise_conv=4,
        depthwise_conv=2,
        flatten_order=1,
        scale=5,
        rel_shift=2,
        attention=2,
        position_table=2,
    ),
    ("conformer", "legacy"): dict(pointwise_conv=2, depthwise_conv=1, attention=1),
    ("transformer", None): dict(attention=1, flatten_order=1),
    ("branchformer", None): dict(depthwise_conv=1, attention=1),
    ("e_branchformer", None): dict(depthwise_conv=4, attention=2),
    ("torchaudiohubert", "large"): dict(attention=2),
}

#: How often the rule for CUDA alone matches in them.
RESIDUAL_SUMS = {
    ("conformer", "latest"): 8,
    ("conformer", "legacy"): 3,
    ("transformer", None): 2,
    ("branchformer", None): 1,
    ("e_branchformer", None): 6,
    ("torchaudiohubert", "large"): 5,
}

#: Rules whose tests are those of test_convolutions.py.
OF_VOCODERS = ("split_conv", "minimal_filtering", "transposed_conv", "conv1d")


def run(model, feeds):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))


def assert_same(before, after, feeds):
    """Equal outputs; of a batch's rows, the valid frames."""
    expected, ours = run(before, feeds), run(after, feeds)
    lengths = expected.pop("encoder_out_lens", None)
    for name, rows in expected.items():
        assert np.isfinite(ours[name]).all()
        assert ours[name].shape == rows.shape
        for i, row in enumerate(rows):
            valid = slice(None if lengths is None else lengths[i])
            scale = np.abs(row[valid]).max()
            assert np.abs(ours[name][i][valid] - row[valid]).max() <= 1e-5 * scale


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Exported encoder graphs by architecture and variant, made when asked for.

    They are those of test_parity.py, which spares their export.
    """
    made = {}

    def get(name, variant):
        if (name, variant) not in made:
            tiny = find("encoder", name).tiny
            conf = tiny[variant] if variant else next(iter(tiny.values()))
            config = asr_config(encoder=name, encoder_conf=conf)
            model = build_asr(config)
            sharpen(model)
            args = Namespace(**{**config, "use_preprocessor": False})
            frontend = wrap_frontend(model, args)
            module = EncoderGraph(model, config).eval()
            speech = describe_speech(model, frontend, args)
            path = tmp_path_factory.mktemp("encoder")
            export_graphs(audio_specs(frontend, module, speech), path)
            made[name, variant] = path / "encoder.onnx"
        return made[name, variant]

    return get


def batches(model):
    """Unequal lengths in a batch, and an input of few frames."""
    random = np.random.default_rng(0)
    names = [i.name for i in model.graph.inputs]
    for lengths in ((97, 131, 22), (15,)):
        feats = random.standard_normal((len(lengths), max(lengths), 20))
        yield dict(zip(names, (feats.astype(np.float32), np.array(lengths))))


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("name, variant", ENCODERS)
def test_encoders(encoders, name, variant, provider):
    model = load_graph(encoders(name, variant))
    rewritten, counts = apply_rules(model, provider)
    CheckerPass()(rewritten)
    for feeds in batches(model):
        assert_same(model, rewritten, feeds)
    expected = ENCODERS[name, variant]
    if provider == "cuda":
        fused = {node.op_type for node in rewritten.graph if node.domain}
        assert fused == {"SkipLayerNormalization"}
        expected = {k: v for k, v in expected.items() if k in counts}
        expected["softmax_mask"] = ENCODERS[name, variant]["attention"]
        expected["residual_norm"] = RESIDUAL_SUMS[name, variant]
    assert {k: counts[k] for k in expected} == expected


class Biased(torch.nn.Module):
    """Attention whose positions have a bias, as WavLM's."""

    def __init__(self):
        super().__init__()
        self.layer = SelfAttention(8, 2)

    def forward(self, x, bias):
        return attend(self.layer, x, bias)


def test_attention_with_biases_of_positions(tmp_path):
    path = tmp_path / "attention.onnx"
    x = Tensor("float32", ("rows", "time", 8))
    inputs = {"x": x, "bias": Tensor("float32", ("rows", 2, "time", "time"))}
    sizes = {"rows": 2, "time": 7}
    export_graph(GraphSpec(Biased().eval(), inputs, {"y": x}, sizes=sizes), path)
    model = load_graph(path)
    rewritten, counts = apply_rules(model, "cpu")
    assert counts["attention"] == 1
    random = np.random.default_rng(0)
    x, bias = (random.standard_normal(s) for s in ((3, 9, 8), (3, 2, 9, 9)))
    feeds = dict(x=x.astype(np.float32), bias=3 * bias.astype(np.float32))
    assert_same(model, rewritten, feeds)


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """The graph of a decoder's step."""
    path = tmp_path_factory.mktemp("step") / "decoder.onnx"
    model = build_asr(asr_config())
    sharpen(model)
    module = find("decoder", "transformer").wrap(model.decoder)
    export_graph(module.eval().graph_spec(len(TOKENS)), path)
    return load_graph(path)


def step_feeds(model):
    """Three utterances of two hypotheses, five nodes kept of eleven."""
    random = np.random.default_rng(0)
    sizes = dict(utterances=3, hypotheses=2, kept=5, previous_nodes=11, frames=13)
    sizes["seen"] = 5 + 3 * 2
    feeds = {}
    for tensor in model.graph.inputs:
        shape = [d if isinstance(d, int) else sizes[d.value] for d in tensor.shape]
        dtype = tensor.dtype.numpy()
        values = random.standard_normal(shape)
        feeds[tensor.name] = (
            3 * abs(values) if dtype != np.float32 else values
        ).astype(dtype)
    return feeds


@pytest.mark.parametrize(
    "provider, more", [("cpu", {}), ("cuda", {"residual_norm": 7})]
)
def test_step(step, provider, more):
    rewritten, counts = apply_rules(step, provider)
    assert {k: v for k, v in counts.items() if v} == {"merged_projections": 2, **more}
    feeds = step_feeds(step)
    assert_same(step, rewritten, feeds)


@pytest.mark.parametrize(
    "rule",
    [rule for rule in RULES if rule.name not in OF_VOCODERS],
    ids=lambda rule: rule.name,
)
def test_each_rule_alone(encoders, step, rule):
    in_a_step = rule.name == "merged_projections"
    model = step if in_a_step else load_graph(encoders("conformer", "latest"))
    rewritten, counts = apply_rules(model, rule.providers[0], (rule,))
    assert counts == {rule.name: counts[rule.name]}
    assert rule.name == "transpose" or counts[rule.name] > 0
    assert rule.what
    for feeds in [step_feeds(model)] if in_a_step else batches(model):
        assert_same(model, rewritten, feeds)
    # Applied once, nothing of it is left to do.
    _, again = apply_rules(rewritten, rule.providers[0], (rule,))
    assert again == {rule.name: 0}


def test_what_nobody_has_measured_is_on_trial_alone(encoders, tmp_path):
    """Attention as one operator for CUDA: equal, in float16 near, and never applied."""
    model = load_graph(encoders("conformer", "latest"))
    assert "attention" not in apply_rules(model, "cuda")[1]
    rewritten, counts = apply_rules(model, "cuda", on_trial("cuda"))
    assert counts["attention"] == 2
    for feeds in batches(model):
        assert_same(model, rewritten, feeds)
    editor, form = Editor(rewritten), FORMATS["fp16"]
    infer_types(editor.model)
    nodes = nodes_in_half(editor.graph, form)
    assert "MultiHeadAttention" in [node.op_type for node in nodes]
    convert(editor, nodes, form)
    save_graph(editor.model, tmp_path / "half.onnx")
    emulate_graph(tmp_path / "half.onnx", tmp_path / "emulated.onnx")
    emulated = load_graph(tmp_path / "emulated.onnx")
    for feeds in batches(model):
        expected, ours = run(model, feeds), run(emulated, feeds)
        lengths = expected["encoder_out_lens"]
        for i, length in enumerate(lengths):
            row, our = (x["encoder_out"][i, :length] for x in (expected, ours))
            assert 0 < np.abs(our - row).max() < 0.02 * np.abs(row).max()


def test_rules_are_measured(tiny):
    bundle = read_bundle(tiny["bundle"])
    sizes = dict(SIZES, frames=9, kept=3, nodes=3, seen=3 + HYPOTHESES)
    for precision in ("fp32", "fp16"):
        rows = list(measure(bundle, "decoder", Device(), precision, 1, sizes))
        alone, merged, all_rules = rows
        assert merged.rule == "merged_projections" and merged.matches == 2
        assert all(row.milliseconds > 0 for row in rows)
        assert alone.saved is None and str(all_rules).startswith("| all |")


def test_8_bits_between_q_and_dq_are_measured(tiny):
    bundle = read_bundle(tiny["bundle"])
    sizes = dict(SIZES, frames_in=60)
    rows = {
        row.form: row for row in measure_qdq.measure(bundle, repetitions=1, sizes=sizes)
    }
    assert [row.failed for row in rows.values()] == [""] * 4
    assert rows["fp32"].difference == 0
    for form in ("fp16", "int8 QDQ", "fp8 QDQ"):
        assert 0 < rows[form].difference < 0.5
        assert rows[form].megabytes > 0
        assert form in str(rows[form])


def test_weights_stay_plain_products(encoders):
    """The quantizer knows products with constant weights as MatMul and Gemm."""
    model = load_graph(encoders("conformer", "latest"))
    rewritten, _ = apply_rules(model, "cpu")
    for node in rewritten.graph:
        if node.domain:
            arrays = [constant(value) for value in node.inputs]
            assert sum(array.size for array in arrays if array is not None) <= 3 * 8


def test_the_file_is_optimized_by_both(encoders, tmp_path):
    source = encoders("conformer", "latest")
    counts = optimize_graph(source, tmp_path / "encoder.onnx", "cpu")
    nodes = count_nodes(tmp_path / "encoder.onnx")
    assert nodes["MultiHeadAttention"] == counts["attention"] == 2
    assert nodes["QuickGelu"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "encoder.onnx",
        "encoder.weights",
    ]


#: Graphs that look like what a rule rewrites and are not: name of the rule, inputs with
#: their shapes, and nodes. ``w`` and ``v`` are weights, the rest constants.
LOOKALIKES = {
    "strides": (
        "pointwise_conv",
        "float[2,T,4] x",
        "t = Transpose<perm=[0,2,1]>(x) y = Conv<strides=[2]>(t, kernel1)",
    ),
    "groups": (
        "pointwise_conv",
        "float[2,T,4] x",
        "t = Transpose<perm=[0,2,1]>(x) y = Conv<group=4>(t, depthwise1)",
    ),
    "width": (
        "pointwise_conv",
        "float[2,T,4] x",
        "t = Transpose<perm=[0,2,1]>(x) y = Conv(t, kernel3)",
    ),
    "between others": ("pointwise_conv", "float[2,4,T] x", "y = Conv(x, kernel1)"),
    "split and used whole": (
        "split_conv",
        "float[2,4,T] x",
        "c = Conv(x, kernel3) a, b = Split<axis=1, num_outputs=2>(c) d = Add(a, b) "
        "e = Concat<axis=1>(d, d) y = Add(c, e)",
    ),
    "time split": (
        "split_conv",
        "float[2,4,6] x",
        "c = Conv(x, kernel3) a, b = Split<axis=2, num_outputs=2>(c) y = Add(a, b)",
    ),
    "few channels": ("conv1d", "float[2,4,T] x", "y = Conv(x, kernel3)"),
    "transposed in groups": (
        "transposed_conv",
        "float[2,4,T] x",
        "y = ConvTranspose<group=4>(x, depthwise1)",
    ),
    "transposed with dilation": (
        "transposed_conv",
        "float[2,4,T] x",
        "y = ConvTranspose<dilations=[2]>(x, kernel3)",
    ),
    "transposed and padded": (
        "transposed_conv",
        "float[2,4,T] x",
        "y = ConvTranspose<strides=[3], output_padding=[2]>(x, kernel3)",
    ),
    "grouped, not depthwise": (
        "depthwise_conv",
        "float[2,4,T] x",
        "y = Conv<group=2>(x, grouped3)",
    ),
    "one side not transposed": (
        "transpose",
        "float[2,4,4] x",
        "t = Transpose<perm=[0,2,1]>(x) y = Add(t, x)",
    ),
    "other axes": (
        "transpose",
        "float[2,4,4] x",
        "t = Transpose<perm=[1,0,2]>(x) y = Transpose<perm=[0,2,1]>(t)",
    ),
    "also used unscaled": (
        "scale",
        "float[2,T,4] x",
        "a = MatMul(x, w) b = Mul(a, half) y = Add(a, b)",
    ),
    "scaled by a vector": (
        "scale",
        "float[2,T,4] x",
        "a = MatMul(x, w) y = Mul(a, bias)",
    ),
    "a fill that is no mask": (
        "softmax_mask",
        "float[2,T,4] x, bool[2,1,4] m",
        "a = Where(m, half, x) y = Softmax(a)",
    ),
    "another mask after": (
        "attention",
        "float[2,T,4] x, bool[2,1,4] m",
        "a = Where(m, lowest, x) p = Softmax(a) n = Not(m) y = Where(n, zero, p)",
    ),
    "a product of activations": (
        "merged_projections",
        "float[4,4] x",
        "a = Gemm(x, x, bias) b = Gemm(x, x, bias) y = Add(a, b)",
    ),
    "a scaled product": (
        "merged_projections",
        "float[4,4] x",
        "a = Gemm<alpha=2.0>(x, w, bias) b = Gemm<alpha=2.0>(x, v, bias) y = Add(a, b)",
    ),
    "broadcast over time": (
        "residual_norm",
        "float[2,T,4] x, float[2,1,4] z",
        "a = Relu(x) b = Relu(z) s = Add(a, b) y = Norm(s, bias)",
    ),
    "broadcast over a batch": (
        "residual_norm",
        "float[2,T,4] x, float[T,4] z",
        "a = Relu(x) b = Relu(z) s = Add(a, b) y = Norm(s, bias)",
    ),
    "a sum with a bias": (
        "residual_norm",
        "float[2,T,4] x",
        "a = Relu(x) s = Add(a, bias) y = Norm(s, bias)",
    ),
    "normalized over two axes": (
        "residual_norm",
        "float[2,3,4] x",
        "a = Relu(x) b = Tanh(x) s = Add(a, b) " "y = Norm<axis=1>(s, bias)",
    ),
    "normalized, and the mean is used": (
        "residual_norm",
        "float[2,3,4] x",
        "a = Relu(x) b = Tanh(x) s = Add(a, b) "
        "n, mean = Norm(s, bias) y = Add(n, mean)",
    ),
    "normalized in four axes": (
        "residual_norm",
        "float[2,3,3,4] x",
        "a = Relu(x) b = Tanh(x) s = Add(a, b) y = Norm(s, bias)",
    ),
    "flattened where it is": (
        "flatten_order",
        "float[2,2,3,2] x",
        "r = Relu(x) t = Transpose<perm=[0,3,2,1]>(r) f = Reshape(t, shape) "
        "y = MatMul(f, w)",
    ),
}

CONSTANTS = dict(
    w=np.arange(16).reshape(4, 4) / 9,
    v=np.arange(16).reshape(4, 4) / 7,
    bias=np.arange(4) / 3,
    one=np.ones(1),
    half=np.array(0.5),
    zero=np.array(0.0),
    lowest=np.array(np.finfo(np.float32).min),
    kernel1=np.arange(16).reshape(4, 4, 1) / 9,
    kernel3=np.arange(48).reshape(4, 4, 3) / 9,
    depthwise1=np.arange(4).reshape(4, 1, 1) / 9,
    grouped3=np.arange(24).reshape(4, 2, 3) / 9,
)


def parse(inputs, nodes):
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => (float y) '
        f"{{ {nodes} }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    used = {name for node in model.graph.node for name in node.input}
    for name, array in CONSTANTS.items():
        if name in used:
            tensor = onnx.numpy_helper.from_array(np.float32(array), name)
            model.graph.initializer.append(tensor)
    if "shape" in used:
        shape = onnx.numpy_helper.from_array(np.array([2, -1, 4]), "shape")
        model.graph.initializer.append(shape)
    return ir.from_proto(model)


@pytest.mark.parametrize("case", LOOKALIKES)
def test_what_only_looks_alike_is_left_alone(case):
    name, inputs, nodes = LOOKALIKES[case]
    model = parse(inputs, nodes)
    (rule,) = (rule for rule in RULES if rule.name == name)
    rewritten, counts = apply_rules(model, rule.providers[0], (rule,))
    assert counts == {name: 0}
    assert [n.op_type for n in rewritten.graph] == [n.op_type for n in model.graph]


#: Residual sums, and the operators that are left besides SkipLayerNormalization.
SUMS = {
    "plain": ("s = Add(a, b) y = Norm(s, bias)", ["Relu", "Tanh"]),
    "with a shift": (
        "s = Add(a, b) y = Norm<epsilon=0.1>(s, bias, bias)",
        ["Relu", "Tanh"],
    ),
    "used again": (
        "s = Add(a, b) n = Norm(s, bias) y = Add(n, s)",
        ["Relu", "Tanh", "Add"],
    ),
    "of a layer": (
        "l = MatMul(b, w) m = Add(l, bias) s = Add(a, m) y = Norm(s, bias)",
        ["Relu", "Tanh", "MatMul"],
    ),
    "of a layer, in front": (
        "l = MatMul(b, w) m = Add(bias, l) s = Add(m, a) y = Norm(s, bias)",
        ["Relu", "Tanh", "MatMul"],
    ),
    "of a Gemm": (
        "m = Gemm(b, w, bias) s = Add(a, m) y = Norm(s, bias)",
        ["Relu", "Tanh", "MatMul"],
    ),
    "of a transposed Gemm": (
        "m = Gemm<transB=1>(b, w, bias) s = Add(a, m) y = Norm(s, bias)",
        ["Relu", "Tanh", "MatMul"],
    ),
    "of a scaled Gemm": (
        "m = Gemm<alpha=2.0>(b, w, bias) s = Add(a, m) y = Norm(s, bias)",
        ["Relu", "Tanh", "Gemm"],
    ),
    "of a layer that is used again": (
        "l = MatMul(b, w) m = Add(l, bias) s = Add(a, m) "
        "n = Norm(s, bias) y = Add(n, m)",
        ["Relu", "Tanh", "MatMul", "Add", "Add"],
    ),
    "of a layer with one bias for all": (
        "l = MatMul(b, w) m = Add(l, one) s = Add(a, m) y = Norm(s, bias)",
        ["Relu", "Tanh", "MatMul", "Add"],
    ),
}


@pytest.mark.parametrize("case", SUMS)
def test_a_residual_sum_and_what_is_left_of_it(case):
    nodes, left = SUMS[case]
    nodes = nodes.replace("Norm", "LayerNormalization")
    model = parse("float[T,4] x", f"a = Relu(x) b = Tanh(x) {nodes}")
    (rule,) = (rule for rule in RULES if rule.name == "residual_norm")
    rewritten, counts = apply_rules(model, "cuda", (rule,))
    assert counts == {"residual_norm": 1}
    kinds = [node.op_type for node in rewritten.graph]
    assert sorted(kinds) == sorted([*left, "SkipLayerNormalization"])
    CheckerPass()(rewritten)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    assert_same(model, rewritten, {"x": x})


def random_nodes(random):
    """Transposes, element-wise nodes and splits that read one another."""
    shapes, nodes = {"x": (4, 4), "z": (4, 4)}, []
    for number in range(random.integers(4, 20)):
        name, source = f"v{number}", random.choice(list(shapes)[-4:])
        channels, time = shapes[name] = shapes[source]
        kind = random.choice(["Transpose", "Keep", "Tanh", "Add", "Split"])
        if kind == "Transpose":
            nodes.append(f"{name} = Transpose<perm=[0,2,1]>({source})")
            shapes[name] = time, channels
        elif kind == "Keep":
            nodes.append(f"{name} = Transpose<perm=[0,1,2]>({source})")
        elif kind == "Split" and channels > 1:
            nodes.append(f"{name}, {name}b = Split<axis=1,num_outputs=2>({source})")
            shapes[name] = shapes[f"{name}b"] = channels // 2, time
        elif kind == "Add":
            alike = [v for v in shapes if v != name and shapes[v] == (channels, time)]
            nodes.append(f"{name} = Add({source}, {random.choice([*alike, 'half'])})")
        else:
            nodes.append(f"{name} = Tanh({source})")
    # Flattened, values show in which order their axes are.
    ends = random.permutation(list(shapes))[: random.integers(1, len(shapes) + 1)]
    nodes += [f"f{i} = Flatten<axis=0>({end})" for i, end in enumerate(ends)]
    flat = ", ".join(f"f{i}" for i in range(len(ends)))
    return " ".join([*nodes, f"y = Concat<axis=1>({flat})"])


def test_one_pass_moves_every_transpose():
    random = np.random.default_rng(0)
    (rule,) = (rule for rule in RULES if rule.name == "transpose")
    total = 0
    for _ in range(100):
        nodes = random_nodes(random)
        model = parse("float[1,4,4] x, float[1,4,4] z", nodes)
        Editor(model).tidy()  # every node is needed
        rewritten, counts = apply_rules(model, "cpu", (rule,))
        x, z = random.standard_normal((2, 1, 4, 4)).astype(np.float32)
        assert_same(model, rewritten, {"x": x, "z": z})
        for node in rewritten.graph:
            assert any(v.uses() or v.is_graph_output() for v in node.outputs)
        _, again = apply_rules(rewritten, "cpu", (rule,))
        assert again == {"transpose": 0}, nodes
        total += counts["transpose"]
    assert total > 100


@pytest.mark.parametrize(
    "edit, rule",
    [
        # Positions that do not end at 1 - time; a shift of another number of columns.
        ("range", "position_table"),
        ("slice", "rel_shift"),
    ],
)
def test_other_positions_are_left_alone(encoders, edit, rule):
    editor = Editor(load_graph(encoders("conformer", "latest")))
    changed = 0
    for node in editor.nodes("Range" if edit == "range" else "Concat"):
        if edit == "range" and only_user(node.outputs[0], "Sub"):
            longer = editor.put("Add", node.inputs[1], editor.add_constant(np.array(2)))
            node.replace_input_with(1, longer)
            changed += 1
        elif made_by(node.inputs[0], "Expand"):
            zeros, table = node.inputs
            node.replace_input_with(0, table)
            node.replace_input_with(1, zeros)
            changed += 1
    editor.tidy()
    assert changed == (1 if edit == "range" else 2)
    _, counts = apply_rules(editor.model, "cpu")
    assert counts[rule] == 0
