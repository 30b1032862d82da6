"""Enhancement: fused graphs, and quantized ones within a budget."""

import json

import numpy as np
import pytest
import soundfile
from test_enh import exported

from espnet_onnx_plugin.bin import optimize, quantize
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import SeparationBudget
from espnet_onnx_plugin.evaluate.separation import SeparationQuality
from espnet_onnx_plugin.quantize import lowering


@pytest.fixture(autouse=True)
def int8_is_faster(monkeypatch):
    """Whatever else this machine does."""
    monkeypatch.setattr(lowering, "is_faster", lambda *_: True)


@pytest.fixture(scope="module")
def tasnet(tmp_path_factory):
    """A Conv-TasNet, a little wider than the tiny ones."""
    conf = dict(layer=3, stack=2, bottleneck_dim=32, hidden_dim=64, num_spk=2)
    root = tmp_path_factory.mktemp("tasnet")
    ends = dict(channel=64, kernel_size=16, stride=8)
    choices = dict(separator_conf=conf, encoder_conf=ends, decoder_conf=ends)
    return exported("tcn", "global", root, **choices)[0]


def validation_data(directory, seconds: float = 1.0) -> list[str]:
    """Mixtures of two voices, and these, as the commands take them."""
    directory.mkdir()
    lines: dict[str, list[str]] = {"wav": [], "spk1": [], "spk2": []}
    random = np.random.default_rng(3)
    for i in range(3):
        time = np.arange(int(8000 * seconds) + 500 * i) / 8000
        voices = [
            0.2 * np.sign(np.sin(2 * np.pi * f * time)) * np.sin(7 * time + f) ** 2
            for f in (90 + 10 * i, 210 + 20 * i)
        ]
        noise = 0.01 * random.standard_normal(len(time))
        for name, wave in zip(lines, (sum(voices) + noise, *voices)):
            path = directory / f"{name}_{i}.wav"
            soundfile.write(path, wave, 8000)
            lines[name].append(f"utt{i} {path}\n")
    options = []
    for name, given in zip(lines, ("speech_mix", "speech_ref1", "speech_ref2")):
        (directory / f"{name}.scp").write_text("".join(lines[name]))
        options += ["--data_path_and_name_and_type"]
        options += [f"{directory}/{name}.scp,{given},sound"]
    return options


def derived(command, bundle, output, *options):
    """Run a command that makes one bundle of another."""
    model = ["--model_dir", f"{bundle.path}", "--output_dir", f"{output}"]
    command.main([*model, *options])
    return read_bundle(output)


def test_optimize(tasnet, tmp_path):
    """The fused graph gives the same, on made-up mixtures and on data."""
    made_up = derived(optimize, tasnet, tmp_path / "made_up")
    figures = made_up.manifest.checks["optimize"]
    assert figures["audio"] == "made-up"
    assert figures["identical"] == figures["utterances"] == 4
    data = validation_data(tmp_path / "data")
    real = derived(optimize, tasnet, tmp_path / "real", *data[:2])
    assert real.manifest.checks["optimize"]["audio"] == "real"
    assert real.manifest.checks["optimize"]["utterances"] == 3


def test_quantize(tasnet, tmp_path):
    """Clean speech is what the budget is measured on, or fp32's where there is none."""
    data = validation_data(tmp_path / "data")
    limits = ["--max_si_snr_decrease", "1", "--max_stoi_decrease", "0.05"]
    bundle = derived(quantize, tasnet, tmp_path / "int8", *data, *limits)
    figures = bundle.manifest.checks["quantize"]
    assert figures["utterances"] == 3
    assert figures["si_snr_fp32"] - figures["si_snr"] <= 1
    assert figures["stoi_fp32"] - figures["stoi"] <= 0.05
    assert figures["agreement"] > 10
    assert json.dumps(figures)
    alone = derived(quantize, tasnet, tmp_path / "alone", *data[:2])
    figures = alone.manifest.checks["quantize"]
    assert "si_snr" not in figures and figures["agreement"] >= 20


def test_quantize_keeps_layers_where_the_budget_is_missed(tasnet, tmp_path):
    """Layers that cost most stay in higher precision."""
    data = validation_data(tmp_path / "data")[:2]
    strict = ["--min_agreement", "60"]
    bundle = derived(quantize, tasnet, tmp_path / "int8", *data, *strict)
    figures = bundle.manifest.checks["quantize"]
    assert figures["agreement"] >= 60
    assert sum(map(len, figures["kept"].values()))


def test_clean_speech_has_to_fit_the_model(tasnet, tmp_path, capsys):
    """One line says what is missing."""
    data = validation_data(tmp_path / "data")[:4]
    with pytest.raises(SystemExit):
        derived(quantize, tasnet, tmp_path / "int8", *data)
    assert "clean speech of 1" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "int8").exists()


def test_budget():
    """Each limit counts by itself."""
    budget = SeparationBudget()
    good = dict(utterances=1, identical=0, si_snr_fp32=10.0, si_snr=9.9)
    good.update(stoi_fp32=0.9, stoi=0.895, agreement=5.0)
    assert SeparationQuality(**good).within(budget)
    assert not SeparationQuality(**{**good, "si_snr": 9.89}).within(budget)
    assert not SeparationQuality(**{**good, "stoi": 0.894}).within(budget)
    blind = dict(utterances=1, identical=0, agreement=19.0)
    assert not SeparationQuality(**blind).within(budget)
    assert SeparationQuality(**{**blind, "agreement": 20.0}).within(budget)
    with pytest.raises(PluginError, match="max_stoi_decrease -1"):
        SeparationBudget(max_stoi_decrease=-1)
