"""Checkpoints that are taken as a model's, and those that are refused by name."""

import copy
import datetime
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import asr_config, build_asr, build_lm, save, save_tts, tts_task
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

from espnet_onnx_plugin.bin import export
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import checkpoint_file
from espnet_onnx_plugin.export import checkpoints as export_model
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.parity import encoding as parity

#: With running statistics.
CONFORMER = dict(
    encoder="conformer",
    encoder_conf=dict(
        output_size=8,
        attention_heads=2,
        linear_units=12,
        num_blocks=1,
        cnn_module_kernel=3,
    ),
)


@pytest.fixture(scope="module")
def config():
    return asr_config(**CONFORMER)


@pytest.fixture(scope="module")
def weights(config):
    return dict(build_asr(dict(config), seed=1).state_dict())


@pytest.fixture
def load(config, tmp_path):
    """Write a checkpoint, and load it as the export does."""

    def load(content, **choices):
        return load_file(write(tmp_path / "model.pth", content), **choices)

    def load_file(file, **choices):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**config, **choices}))
        return export_model.build(ASRTask, path, file)[0]

    load.file = load_file
    return load


def write(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def message(load, content, **choices) -> str:
    """The one line that a checkpoint is refused by."""
    with pytest.raises(PluginError) as e:
        load(content, **choices)
    assert "\n" not in str(e.value)
    return str(e.value)


def without(weights, *prefixes):
    return {k: v for k, v in weights.items() if not k.startswith(prefixes)}


def same(model, weights) -> bool:
    return all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_a_checkpoint_of_weights_is_taken(load, weights):
    assert same(load(weights), weights)


def test_missing_weights_are_named(load, weights):
    lacking = message(load, without(weights, "decoder."))
    count = sum(k.startswith("decoder.") for k in weights)
    assert f"of {len(weights)} weights it lacks {count} (decoder." in lacking
    assert lacking.count("decoder.") == 5 and ", ...)" in lacking
    assert "model.pth does not fit" in lacking and "config.yaml" in lacking
    given = ("frontend.logmel.melmat", "num_batches_tracked")  # but for these
    count = sum(not k.endswith(given) for k in weights)
    assert f"lacks {count} (" in message(load, {})
    one = message(load, without(weights, "ctc.ctc_lo.bias"))
    assert "lacks 1 (ctc.ctc_lo.bias)" in one


def test_running_statistics_and_normalization_are_weights(load, weights):
    names = ("running_mean", "running_var")
    lacking = {k: v for k, v in weights.items() if not k.endswith(names)}
    assert "running_mean" in message(load, lacking)


def test_weights_too_many_are_named(load, weights):
    more = message(load, {**weights, "frontend.x": torch.zeros(2)})
    assert "it has 1 (frontend.x) that the model has not" in more


def test_weights_of_another_shape_are_named(load, weights):
    other = {**weights, "ctc.ctc_lo.bias": torch.zeros(3)}
    assert "size mismatch of 1 (ctc.ctc_lo.bias is [3], not [" in message(load, other)


def test_buffers_that_the_configuration_gives_may_be_missing(load, weights):
    assert same(load(without(weights, "frontend.logmel.melmat")), weights)
    counted = {k: v for k, v in weights.items() if "num_batches" not in k}
    load(counted)


def test_weights_that_espnet_uses_no_more_may_be_too_many(load, weights, config):
    load({**weights, "criterion_att.x": torch.zeros(2)})
    load({**weights, "decoder.embed.1.pe": torch.zeros(1, 5, 8)})
    conf = dict(ctc_weight=1.0)
    load(weights, model_conf=conf)  # with a decoder that is all CTC never runs
    conf = dict(ctc_weight=0.0)
    load(weights, model_conf=conf)
    # Where there may be a decoder, one too many is another model.
    assert "ctc.ctc_lo" in message(
        load, {**without(weights, "ctc."), "ctc.ctc_lo.x": torch.zeros(1)}
    )


@pytest.mark.parametrize("wrap", ["model", "module", "state_dict", "ddp", "lightning"])
def test_weights_are_taken_out_of_what_a_trainer_wrote(wrap, load, weights, caplog):
    caplog.set_level("INFO")
    if wrap == "ddp":
        content = {f"module.{k}": v for k, v in weights.items()}
    elif wrap == "lightning":
        inside = {f"model.{k}": v for k, v in weights.items()}
        content = dict(state_dict={**inside, "accuracy.total": torch.zeros(1)}, epoch=1)
    else:
        content = {wrap: weights, "optimizers": [dict(state={})], "scaler": None}
    assert same(load(content), weights)
    if wrap != "ddp":
        entry = "state_dict" if wrap == "lightning" else wrap
        assert f"taking its entry '{entry}'" in caplog.text


def test_a_checkpoint_of_espnets_trainer_is_taken(load, weights):
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("train") as observed:
        observed.register(dict(loss=torch.tensor(1.0)))
        observed.next()
    content = dict(model=weights, reporter=reporter.state_dict(), schedulers=[None])
    assert same(load(content), weights)
    # As 202511 reports.
    stats = dict(time=datetime.timedelta(3), loss=np.float64(1), acc=np.float32(1))
    load(dict(model=weights, reporter=stats))


def test_what_holds_no_weights_is_refused(load, weights):
    assert "holds a list" in message(load, [1])
    assert "holds epoch, which are no weights" in message(load, {**weights, "epoch": 3})
    generator = dict(model=dict(generator=weights))
    assert "holds generator, which are no weights" in message(load, generator)


def test_a_damaged_file_is_refused(load, weights, tmp_path):
    good = write(tmp_path / "model.pth", weights).read_bytes()
    flipped = bytearray(good)
    start = good.index(weights["ctc.ctc_lo.weight"].numpy().tobytes())
    flipped[start + 8] ^= 255
    for content in (good[: len(good) // 2], good[:-100], b"", b"<html>", flipped):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(PluginError, match="bad.pth is .*damaged.*copy it again"):
            load.file(tmp_path / "bad.pth")


class Code:
    """Leaves a directory behind when a pickle of it is loaded."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_runs_where_the_user_says_so(
    zipped, load, weights, tmp_path, monkeypatch
):
    content = dict(model=weights, other=Code(tmp_path / "ran"))
    file = tmp_path / "code.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", "1")  # which is not ours
    with pytest.raises(PluginError, match=r"\(posix.mkdir\).*--trust_checkpoint true"):
        load.file(file)
    assert not (tmp_path / "ran").exists()
    with checkpoint_file.trusting(True):
        assert same(load.file(file), weights)
    assert (tmp_path / "ran").exists()


def test_a_harmless_class_is_refused_by_name(load, weights):
    content = dict(model=weights, args=types.SimpleNamespace(a=1))
    assert "more than weights (types.SimpleNamespace)" in message(load, content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["ctc.ctc_lo.bias", "encoder.encoders.0.conv_module.norm.running_var"]
)
def test_what_is_no_number_is_refused(value, name, load, weights):
    bad = copy.deepcopy(weights)
    bad[name][0] = value
    if value == -float("inf") and "running" in name:
        load(bad)  # masks are made of it
    else:
        assert f"NaN or infinity in 1 ({name})" in message(load, bad)


def test_no_number_passes_a_parity_check(monkeypatch):
    bad = {"encoder_out": np.full((1, 3), np.nan), "encoder_out_lens": np.array([3])}

    class Graphs(dict):
        lengths = bad["encoder_out_lens"]

    audio = [("noise", np.zeros(400, np.float32))]
    monkeypatch.setattr(parity, "to_numpy", lambda value: value)
    with pytest.raises(PluginError, match="parity check failed: encoder"):
        parity.check_encoder(lambda _: bad, lambda _: Graphs(bad), audio)
    for figure in (float("nan"), float("inf")):
        with pytest.raises(PluginError, match="parity check failed"):
            parity.require("x", "noise", figure)


def test_frozen_weights_come_from_where_training_began(load, weights, tmp_path):
    base = write(tmp_path / "base.pth", dict(model=weights))
    frozen = dict(freeze_param=["decoder"])
    left = without(weights, "decoder.")
    assert "lacks" in message(load, left, **frozen)
    assert same(load(left, **frozen, init_param=[str(base)]), weights)
    part = write(
        tmp_path / "part.pth",
        {f"dec.{k[8:]}": v for k, v in weights.items() if k.startswith("decoder.")},
    )
    assert same(load(left, **frozen, init_param=[f"{part}:dec:decoder"]), weights)
    # What is trained is in the checkpoint, wherever training began.
    assert "lacks" in message(load, left, init_param=[str(base)])
    # What training began with is overwritten by what it made.
    zeros = {k: torch.zeros_like(v) for k, v in weights.items()}
    old = write(tmp_path / "old.pth", zeros)
    more = message(load, without(left, "ctc."), **frozen, init_param=[str(old)])
    assert "lacks" in more and "(ctc.ctc_lo" in more


def test_frozen_weights_of_a_hub_are_those_it_is_built_with(load, weights, monkeypatch):
    """A stand-in for a part whose weights are a hub's: none are drawn."""
    drawing = ASRTask.build_model.__func__

    def build_model(cls, args):
        model = drawing(cls, args)
        parts = ("decoder.", "encoder.embed.")
        own = {k: v for k, v in weights.items() if k.startswith(parts)}
        model.load_state_dict(own, strict=False)
        return model

    monkeypatch.setattr(ASRTask, "build_model", classmethod(build_model))
    left = without(weights, "decoder.")
    assert same(load(left, freeze_param=["decoder"]), weights)
    assert "lacks" in message(load, left)
    less = without(left, "ctc.")
    assert "lacks 2 (ctc." in message(load, less, freeze_param=["decoder", "ctc"])


LORA = dict(
    use_adapter=True,
    adapter="lora",
    adapter_conf=dict(rank=2, alpha=4, target_modules=["linear_q", "linear_v"]),
)


def test_a_package_of_adapters_that_is_missing_is_named(load, weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "loralib", None)
    assert "pip install loralib" in message(load, weights, **LORA)


@pytest.fixture(scope="module")
def adapted(config):
    """Low-rank adapters, and the model with them in its weights."""
    loralib = pytest.importorskip("loralib")
    from espnet2.layers.create_adapter import create_adapter

    model = build_asr(dict(config), seed=1)
    create_adapter(model, "lora", LORA["adapter_conf"])
    model.train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
    alone = loralib.lora_state_dict(model)
    merged = copy.deepcopy(model.eval().state_dict())
    return copy.deepcopy(alone), merged


def test_adapters_are_added_to_the_model_that_they_adapt(
    adapted, load, weights, tmp_path
):
    alone, merged = adapted
    base = dict(init_param=[str(write(tmp_path / "base.pth", weights))])
    assert not torch.equal(
        *(w["decoder.decoders.0.self_attn.linear_q.weight"] for w in (weights, merged))
    )
    close = dict(rtol=0, atol=1e-6)
    # All of it, as it was in eval mode.
    assert same(load(merged, **LORA), merged)
    # The adapters alone.
    model = load(alone, **LORA, save_strategy="adapter_only", **base)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, merged[name], **close)
    # All but what was frozen.
    frozen = dict(freeze_param=["decoder"], save_strategy="required_grad_only")
    trained = {
        k: v for k, v in merged.items() if not k.startswith("decoder.") or "lora_" in k
    }
    model = load(trained, **LORA, **frozen, **base)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, merged[name], **close)


def test_adapters_without_what_they_adapt_are_refused(adapted, load, weights, tmp_path):
    alone, _ = adapted
    line = message(load, alone, **LORA, save_strategy="adapter_only")
    assert "lacks" in line and "init_param" in line and "save_strategy: all" in line
    gone = dict(init_param=[str(tmp_path / "gone.pth")], save_strategy="adapter_only")
    assert "lacks" in message(load, alone, **LORA, **gone)
    base = dict(init_param=[str(write(tmp_path / "base.pth", weights))])
    one = dict(list(alone.items())[1:])
    line = message(load, one, **LORA, **base, save_strategy="adapter_only")
    assert "lacks 1 (" in line and "lora_A" in line


def test_a_language_model_is_held_to_the_same(tmp_path):
    conf = dict(unit=4, layer=1, embed_unit=4, att_unit=4, head=1)
    model, config = build_lm("transformer", conf)
    files = save(model, config, tmp_path, "lm.pth")
    export_model.build(LMTask, files["config"], files["file"])
    torch.save({}, files["file"])
    with pytest.raises(PluginError, match="lm.pth does not fit .* weights it lacks"):
        export_model.build(LMTask, files["config"], files["file"])


def test_a_voice_may_lack_its_discriminator(tmp_path):
    files = save_tts("vits", "one_speaker", tmp_path)
    weights = torch.load(files["file"])
    task = tts_task()
    spare = [k for k in weights if k.startswith("tts.discriminator.")]
    assert spare
    torch.save(without(weights, "tts.discriminator."), files["file"])
    export_model.build(task, files["config"], files["file"])
    torch.save(without(weights, "tts.generator.decoder."), files["file"])
    with pytest.raises(PluginError, match=r"lacks \d+ \(tts.generator.decoder"):
        export_model.build(task, files["config"], files["file"])


def test_a_vocoder_needs_a_generator(tmp_path, weights):
    file = tmp_path / "vocoder.pkl"
    (tmp_path / "config.yml").write_text("sampling_rate: 16000")
    for content in (weights, dict(model=weights), [1]):
        with pytest.raises(PluginError, match="vocoder.pkl holds no generator"):
            checkpoint_file.read_generator(write(file, content))
    checkpoint_file.read_generator(write(file, dict(model=dict(generator=weights))))
    file.write_bytes(b"junk")
    with pytest.raises(PluginError, match="vocoder.pkl is no checkpoint of torch"):
        checkpoint_file.read_generator(file)


@pytest.mark.parametrize("name", ["config.yml", "other.yml"])
def test_settings_of_a_vocoder_run_no_code(tmp_path, weights, name):
    canary, config = tmp_path / "canary", tmp_path / name
    file = write(tmp_path / "vocoder.pkl", dict(model=dict(generator=weights)))
    given = None if name == "config.yml" else config
    with pytest.raises(PluginError, match=f"cannot read .*{name}"):
        checkpoint_file.read_generator(file, given)
    config.write_text(f"a: !!python/object/apply:os.mkdir ['{canary}']")
    with pytest.raises(PluginError, match=f"{name} is no YAML of settings"):
        checkpoint_file.read_generator(file, given)
    assert not canary.exists()


def test_an_empty_ngram_model_is_refused_also_without_kenlm(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    (tmp_path / "x.arpa").touch()
    with pytest.raises(PluginError, match="x.arpa is empty; build the n-gram model"):
        export_model.refuse_ngram(tmp_path / "x.arpa")


@pytest.mark.parametrize("content", [b"junk", b"\\data\\\nngram 1=3\n"])
def test_an_ngram_model_that_cannot_be_read_is_refused(content, config, tmp_path):
    pytest.importorskip("kenlm")
    files = save(build_asr(dict(config)), config, tmp_path / "asr", "model.pth")
    ngram = tmp_path / "x.arpa"
    ngram.write_bytes(content)
    checkpoints = Checkpoints(files["config"], files["file"], ngram_file=ngram)
    with pytest.raises(PluginError, match="x.arpa.* build the n-gram model again"):
        export_bundle("asr", checkpoints, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_in_one_line_and_writes_nothing(config, tmp_path, capsys):
    files = save(build_asr(dict(config)), config, tmp_path / "asr", "model.pth")
    torch.save({}, files["file"])
    options = dict(
        output_dir=tmp_path / "out",
        train_config=files["config"],
        model_file=files["file"],
    )
    with pytest.raises(SystemExit) as e:
        export.main([a for k, v in options.items() for a in (f"--{k}", str(v))])
    assert e.value.code == 1
    [line] = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert "weights it lacks" in line
    assert [p.name for p in tmp_path.iterdir()] == ["asr"]
