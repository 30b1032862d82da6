"""Diffusion models against ESPnet's own inference, with the same seed."""

import functools

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from conftest import build, configurations, diffusion_config, save
from test_enh import espnet_class, recipe_data

from espnet_onnx_plugin.bin import enh_inference
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.archs.sgmse_diffusion import Score
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.graph import export_graph
from espnet_onnx_plugin.runtime.enh import SeparateSpeech


def exported(arch, name, root, diffusion=(), **choices):
    """A bundle of a tiny configuration, and the files that it is made of.

    Args:
        arch, name: of the registry.
        root: where the files go.
        diffusion: other settings of the diffusion model.
        choices: other keys of the training configuration.
    """
    from espnet2.tasks.enh import EnhancementTask

    config = diffusion_config(arch, name, **choices)
    config["diffusion_model_conf"].update(diffusion)
    model = build(EnhancementTask, config)
    if config["diffusion_model_conf"]["score_model"] == "dcunet":
        for weight in model.diffusion.dnn.output_layer.parameters():
            weight.data *= 0.01  # or the samples of a random model grow without end
    files = save(model, config, root, "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    return export_bundle("enh", checkpoints, root / "fp32"), files


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Bundles and files of tiny configurations, each made once."""

    @functools.cache
    def model(arch, name):
        conf = dict(normalize=name != "dcunet")
        root = tmp_path_factory.mktemp(name)
        return exported(arch, name, root, model_conf=conf)

    return model


@pytest.mark.parametrize("arch, name", configurations("diffusion"))
def test_diffusion(arch, name, models):
    """A seed gives ESPnet's waveforms, one mixture after the other."""
    bundle, files = models(arch, name)
    assert set(bundle.manifest.checks["parity"]) == {"waveforms", "score"}
    assert "parity_skipped" not in bundle.manifest.checks
    ours, theirs = SeparateSpeech(bundle, seed=3), espnet_class(files)
    torch.manual_seed(3)
    for samples in (803, 1203):
        mix = 0.1 * np.random.default_rng(samples).standard_normal((1, samples))
        mix = mix.astype(np.float32)
        [made], [expected] = ours(mix), theirs(mix)
        assert difference(made, expected) <= 1e-3


def test_command(models, tmp_path):
    """A job draws on behind what the construction of the model has drawn."""
    from espnet2.bin import enh_inference as theirs

    bundle, files = models("sgmse", "ncsnpp")
    data = recipe_data(tmp_path / "data")
    (tmp_path / "keys").write_text("utt0\nutt1\n")
    options = [*data, "--fs", "8k", "--seed", "5", "--key_file", f"{tmp_path}/keys"]
    enh_inference.main(
        ["--model_dir", f"{bundle.path}", "--output_dir", f"{tmp_path}/ours", *options]
    )
    model = ["--train_config", f"{files['config']}", "--model_file", f"{files['file']}"]
    theirs.main([*model, "--output_dir", f"{tmp_path}/theirs", *options])
    for number in range(2):
        name = f"wavs/1/utt{number}.wav"
        made, _ = soundfile.read(tmp_path / "ours" / name)
        expected, _ = soundfile.read(tmp_path / "theirs" / name)
        assert difference(made, expected) <= 1e-3


@pytest.mark.more
@pytest.mark.parametrize("architecture", ["DCUNet-16", "DCUNet-20", "DilDCUNet-v2"])
@pytest.mark.parametrize("fix_length", ["pad", "trim"])
def test_architectures_of_dcunet(architecture, fix_length, tmp_path):
    """The score of each, whose layers are as large as ESPnet has them."""
    from espnet2.enh.layers.dcunet import DCUNet

    torch.manual_seed(0)
    net = DCUNet(
        dcunet_architecture=architecture, dcunet_fix_length=fix_length, embed_dim=8
    ).eval()
    module, random = Score(net, 257).eval(), np.random.default_rng(0)
    export_graph(module.graph_spec(), tmp_path / "score.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "score.onnx")
    time = np.array([0.3], np.float32)
    for frames in (33, 38):
        sample, spectrum = random.standard_normal((2, frames, 257, 2), np.float32)
        given = dict(sample=sample, spectrum=spectrum, time=time)
        [made] = session.run(None, given)
        both = np.stack((sample, spectrum)).view(np.complex64)[..., 0]
        x = torch.from_numpy(both).transpose(1, 2)[None]
        with torch.no_grad():
            expected = -net(x, torch.from_numpy(time))[0, 0].T
        expected = torch.view_as_real(expected).numpy()
        assert difference(made, expected) <= 1e-4


def test_refusals(tmp_path):
    """A process that ESPnet's own sampler refuses, and frequencies that do not fit."""
    conf = dict(sde_conf=dict(beta_min=0.1, beta_max=1.0), sde="ouvp")
    with pytest.raises(PluginError, match="OUVPSDE by pc, .* is not supported"):
        exported("sgmse", "ncsnpp", tmp_path / "sde", diffusion=conf)
    transform = dict(n_fft=62, hop_length=24, spec_transform_type="exponent")
    with pytest.raises(PluginError, match="multiple of 32, not 32"):
        choices = dict(encoder_conf=transform, decoder_conf=transform)
        exported("sgmse", "dcunet", tmp_path / "bins", **choices)
