"""Export of transducers of tasks asr, st and slu, and what is made of their graphs."""

import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
import yaml
from conftest import TOKENS, asr_config, build, save, st_config
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.slu import SLUTask
from espnet2.tasks.st import STTask

from espnet_onnx_plugin.bin import verify
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints, losses_left_out
from espnet_onnx_plugin.export.export import check_parity, export_bundle
from espnet_onnx_plugin.export.tasks.exporter import find_exporter
from espnet_onnx_plugin.optimize.fuse import optimize, optimize_graph
from espnet_onnx_plugin.quantize.lowering import calibrate_graph
from espnet_onnx_plugin.quantize.quantize import quantize
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

_ENCODER = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=2)
_JOINT = dict(joint_space_size=9)
_TRANSDUCER = dict(
    decoder="transducer",
    decoder_conf=dict(num_layers=2, hidden_size=7),
    encoder_conf=_ENCODER,
    joint_net_conf=dict(_JOINT, joint_activation_type="swish"),
)

#: Tasks and configurations by name.
MODELS = {
    "multi_blank": (
        ASRTask,
        asr_config(
            **_TRANSDUCER,
            model_conf=dict(
                ctc_weight=1.0,
                interctc_weight=0.3,
                transducer_multi_blank_durations=[2, 4],
            ),
        )
        | dict(
            encoder_conf=dict(
                _ENCODER, interctc_layer_idx=[1], interctc_use_conditioning=True
            ),
        ),
    ),
    "no_ctc": (ASRTask, asr_config(**_TRANSDUCER, model_conf=dict(ctc_weight=0.0))),
    "st": (
        STTask,
        st_config(
            **_TRANSDUCER,
            st_joint_net_conf=dict(_JOINT, lin_dec_bias=False),
            hier_encoder="transformer",
            hier_encoder_conf=dict(_ENCODER, input_layer=None),
            model_conf=dict(asr_weight=0.3, mtlalpha=1.0, st_mtlalpha=0.3),
        ),
    ),
    "slu": (SLUTask, {**SLUTask.get_default_config(), **asr_config(**_TRANSDUCER)}),
}

#: What each is searched by.
SYMBOLS = dict(blank=0, sos=len(TOKENS) - 1)
SEARCHES = {
    "multi_blank": Transducer(
        blank=0,
        sos=len(TOKENS) + 1,
        multi_blank_durations=(4, 2, 1),
        multi_blank_indices=(0, 1, 2),
    ),
    "no_ctc": Transducer(
        **SYMBOLS, multi_blank_durations=(1,), multi_blank_indices=(0,)
    ),
    "st": Transducer(**SYMBOLS),
    "slu": Transducer(**SYMBOLS),
}


@pytest.fixture(scope="module")
def transducers(tmp_path_factory):
    """Gives a model's task, files and bundle by name, made when first asked for."""
    made = {}

    def give(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            task, config = MODELS[name]
            files = save(build(task, dict(config)), config, root, "model.pth")
            checkpoints = Checkpoints(files["config"], files["file"])
            task = task.__name__.removesuffix("Task").lower()
            bundle = export_bundle(task, checkpoints, root / "fp32")
            made[name] = task, checkpoints, bundle
        return made[name]

    return give


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_tells_its_graphs_and_its_search(name, transducers):
    _, _, bundle = transducers(name)
    manifest = bundle.manifest
    roles = ["frontend", "encoder", "decoder", "joint_memory", "joint"]
    assert list(manifest.graphs) == roles
    assert manifest.search == SEARCHES[name]
    assert set(manifest.checks["parity"]) == {"encoder", "decoder", "joint"}
    assert all(0 < v <= 1e-4 for v in manifest.checks["parity"].values())
    tokens = bundle.file(manifest.text.token_list.name).read_text().split()
    assert manifest.search.sos == len(tokens) - 1
    if name == "multi_blank":
        assert tokens[:4] == ["<blank4>", "<blank2>", "<blank>", "<unk>"]
    outputs = manifest.graphs["encoder"].outputs
    assert ("ctc_log_probs" in outputs) == (name != "no_ctc")
    assert ("interctc_1" in outputs) == (name == "multi_blank")


def test_verify_compares_the_graphs(capsys, transducers):
    _, checkpoints, bundle = transducers("no_ctc")
    given = dict(model_dir=bundle.path, **checkpoints.files())
    verify.main([a for k, v in given.items() for a in (f"--{k}", str(v))])
    assert "largest difference from PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize(
    "role, part", [("decoder", "decoder.1"), ("decoder", "embed"), ("joint", "lin_out")]
)
def test_a_graph_of_other_weights_is_found(role, part, transducers):
    task, checkpoints, bundle = transducers("no_ctc")
    model = find_exporter(task)(checkpoints)
    for parameter in model.decoders[role].reference.get_submodule(part).parameters():
        parameter.data *= 1.05
    with pytest.raises(PluginError, match=f"{role} differs from PyTorch"):
        check_parity(bundle, model, Device())


@pytest.mark.parametrize("part", ["decoder.", "joint_network."])
def test_a_checkpoint_without_a_part_is_refused(part, transducers, tmp_path):
    task, checkpoints, _ = transducers("multi_blank")  # its ctc_weight is 1
    weights = torch.load(checkpoints.model_file)
    kept = {k: v for k, v in weights.items() if not k.startswith(part)}
    torch.save(kept, tmp_path / "model.pth")
    files = Checkpoints(checkpoints.train_config, tmp_path / "model.pth")
    with pytest.raises(PluginError, match=f"it lacks .*{part}"):
        find_exporter(task)(files)


def test_an_unknown_activation_is_named(tmp_path):
    config = asr_config(
        **{**_TRANSDUCER, "joint_net_conf": dict(joint_activation_type="nonesuch")}
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "model.pth").touch()
    files = Checkpoints(tmp_path / "config.yaml", tmp_path / "model.pth")
    with pytest.raises(PluginError, match="nonesuch"):
        find_exporter("asr")(files)


def test_a_loss_that_is_not_installed_is_left_out_while_a_model_is_built(monkeypatch):
    task, config = MODELS["no_ctc"]
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", None)  # as if not installed
    with pytest.raises(ImportError):
        task.build_model(Namespace(**config))
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch")
    before = set(sys.modules)
    with losses_left_out(), losses_left_out():
        task.build_model(Namespace(**config))
    assert "warprnnt_pytorch" not in set(sys.modules) - before


def feeds(graph, rows, frames):
    """Random inputs and states of a graph."""
    random = np.random.default_rng(0)
    sizes = dict(rows=rows, utterances=rows, frames=frames)
    for name, tensor in {**graph.inputs, **graph.states}.items():
        shape = [sizes.get(axis, axis) for axis in tensor.axes]
        if tensor.dtype == "int64":
            yield name, random.integers(1, len(TOKENS), shape)
        else:
            yield name, random.standard_normal(shape).astype(np.float32)


#: How many layers each graph has to quantize.
LAYERS = {"decoder": 2 * 2 + 1, "joint_memory": 1, "joint": 1}


@pytest.mark.parametrize("role", LAYERS)
def test_optimized_and_quantized_graphs_give_nearly_the_same(
    role, transducers, tmp_path
):
    _, _, bundle = transducers("no_ctc")
    graph = bundle.manifest.graphs[role]
    source = bundle.file(graph.file.name)
    optimize_graph(source, tmp_path / "optimized.onnx", "cpu")
    limits = {"optimized": 1e-4}
    for precision, limit in dict(int8=0.1, weight8=0.1, weight4=0.6).items():
        lowering = calibrate_graph(source, precision, False, Device())
        assert len(lowering.ladders) == LAYERS[role]
        forms = {layer.name: forms[0] for layer, forms in lowering.ladders.items()}
        lowering.write(forms, tmp_path / f"{precision}.onnx")
        limits[precision] = limit
    session = open_graph(source, Device())
    known = {entry.name for entry in session.get_inputs()}
    for rows, frames in ((1, 1), (4, 11)):
        given = {k: v for k, v in feeds(graph, rows, frames) if k in known}
        expected = session.run(None, given)
        for name, limit in limits.items():
            ours = open_graph(tmp_path / f"{name}.onnx", Device()).run(None, given)
            for made, value in zip(ours, expected, strict=True):
                worst = difference(made, value)
                assert worst <= limit and (worst > 0 or name == "optimized")


def test_bundles_are_optimized_and_quantized(transducers, tmp_path):
    _, _, bundle = transducers("no_ctc")
    optimized = optimize(bundle, tmp_path / "optimized", "cpu")
    checks = optimized.manifest.checks["optimize"]
    assert checks["identical"] == checks["utterances"] > 0
    assert {"encoder", "decoder", "joint"} <= set(checks["differences"])
    assert "not_compared" not in checks
    quantized = quantize(bundle, tmp_path / "int8", "int8")
    checks = quantized.manifest.checks["quantize"]
    assert checks["utterances"] > 0
    roles = {"encoder", "decoder", "joint_memory", "joint"}
    assert roles <= set(checks["differences"])
    assert all(0 < checks["differences"][role] < 0.5 for role in roles)
    graphs = quantized.manifest.graphs
    assert [role for role in graphs if graphs[role].batches] == ["frontend"]
