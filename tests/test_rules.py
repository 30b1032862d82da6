"""Every optimization rule: what it makes equals what was there, where it should match."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import asr_config, build_asr

from espnet_onnx_plugin.export.encoder import PARTS, EncoderGraph
from espnet_onnx_plugin.export.graph import export_encoder
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.graph_file import load_graph
from espnet_onnx_plugin.optimize.fuse import count_nodes, optimize_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, apply_rules

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
    ("conformer", "legacy"): dict(pointwise_conv=4, depthwise_conv=2, attention=2),
    ("transformer", None): dict(attention=2, flatten_order=1),
    ("branchformer", None): dict(depthwise_conv=2, attention=2),
    ("e_branchformer", None): dict(depthwise_conv=4, attention=2),
}


def run(model, feeds):
    session = ort.InferenceSession(model.SerializeToString())
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
    """Exported encoder graphs by architecture and variant, made as they are asked for."""
    made = {}

    def get(name, variant):
        if (name, variant) not in made:
            tiny = find("encoder", name).tiny
            conf = tiny[variant] if variant else next(iter(tiny.values()))
            config = asr_config(encoder=name, encoder_conf=conf)
            module = EncoderGraph(
                build_asr(config), {r: config[r] for r in (*PARTS, "encoder")}
            ).eval()
            path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
            example = (torch.randn(2, 2000), torch.tensor([2000, 1500]))
            export_encoder(module, example, path)
            made[name, variant] = path
        return made[name, variant]

    return get


def batches(model):
    """Unequal lengths in a batch, and an input of very few frames."""
    random = np.random.default_rng(0)
    names = [i.name for i in model.graph.input]
    for lengths in ((3100, 4231, 700), (600,)):
        speech = 0.1 * random.standard_normal((len(lengths), max(lengths)))
        yield dict(zip(names, (speech.astype(np.float32), np.array(lengths))))


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("name, variant", ENCODERS)
def test_encoders(encoders, name, variant, provider):
    model = load_graph(encoders(name, variant))
    rewritten, counts = apply_rules(model, provider)
    onnx.checker.check_model(rewritten)
    for feeds in batches(model):
        assert_same(model, rewritten, feeds)
    expected = ENCODERS[name, variant]
    if provider == "cuda":
        assert not any(node.domain for node in rewritten.graph.node)
        expected = {k: v for k, v in expected.items() if k in counts}
        expected["softmax_mask"] = ENCODERS[name, variant]["attention"]
    assert {k: counts[k] for k in expected} == expected


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_alone(encoders, rule):
    model = load_graph(encoders("conformer", "latest"))
    rewritten, counts = apply_rules(model, rule.providers[0], (rule,))
    assert counts == {rule.name: counts[rule.name]}
    assert rule.name == "transpose" or counts[rule.name] > 0
    assert rule.what
    for feeds in batches(model):
        assert_same(model, rewritten, feeds)
    # Applied once, nothing of it is left to do.
    _, again = apply_rules(rewritten, rule.providers[0], (rule,))
    assert again == {rule.name: 0}


def test_weights_stay_plain_products(encoders):
    """The int8 quantizer takes MatMul and Gemm with constant weights, and only those."""
    model = load_graph(encoders("conformer", "latest"))
    rewritten, _ = apply_rules(model, "cpu")
    sizes = {i.name: np.prod(i.dims) for i in rewritten.graph.initializer}
    for node in rewritten.graph.node:
        if node.domain:
            assert sum(sizes.get(name, 0) for name in node.input) <= 3 * 8


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
