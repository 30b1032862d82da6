"""Settings of a model that an inference configuration replaces."""

import numpy as np
import pytest
import yaml
from conftest import save_enh
from test_enh import espnet_class

from espnet_onnx_plugin.bin import export
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.runtime.enh import SeparateSpeech


def exported(files, root, task="enh", **settings):
    """The command, with an inference configuration of these settings."""
    other = root / "inference.yaml"
    other.write_text(yaml.safe_dump(settings), encoding="utf-8")
    options = ["--train_config", files["config"], "--model_file", files["file"]]
    options += ["--inference_enh_config", other, "--output_dir", root / "fp32"]
    export.main([str(option) for option in ("--task", task, *options)])
    return other


def test_inference_config(tmp_path):
    """The bundle is of the model that ESPnet builds with the same configuration."""
    files = save_enh("tcn", "spectrum", tmp_path)
    longer = dict(hop_length=32, window="hamming")
    mapping = dict(nonlinear="sigmoid")
    other = exported(
        files,
        tmp_path,
        encoder_conf=longer,
        decoder_conf=longer,
        separator_conf=mapping,
    )
    mix = np.random.default_rng(0).standard_normal((1, 4003)).astype(np.float32)
    bundle = read_bundle(tmp_path / "fp32")
    assert bundle.manifest.enhancement.analysis.hop_length == 32
    theirs = espnet_class(files, inference_config=str(other))
    for made, expected in zip(SeparateSpeech(bundle)(mix), theirs(mix), strict=True):
        assert difference(made, expected) <= 1e-3
    source = bundle.manifest.source["files"]
    exported(files, tmp_path)
    assert read_bundle(tmp_path / "fp32").manifest.source["files"] != source


@pytest.mark.parametrize(
    "task, settings, said",
    [
        ("enh", dict(model_conf={}), "model_conf"),
        ("asr", dict(encoder="stft"), "--inference_enh_config is for task enh"),
    ],
)
def test_refusals(task, settings, said, tmp_path, capsys):
    """Other keys than ESPnet's, and other tasks."""
    files = save_enh("tcn", "spectrum", tmp_path)
    with pytest.raises(SystemExit):
        exported(files, tmp_path, task, **settings)
    assert said in capsys.readouterr().err
