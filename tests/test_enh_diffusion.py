"""Diffusion models against ESPnet's own inference, with the same seed."""

import numpy as np
import pytest
import torch
from conftest import build, configurations, diffusion_config, save
from test_enh import espnet_class

from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.enh import SeparateSpeech


def exported(arch, name, root, **choices):
    """A bundle of a tiny configuration, and the files that it is made of."""
    from espnet2.tasks.enh import EnhancementTask

    config = diffusion_config(arch, name, **choices)
    files = save(build(EnhancementTask, config), config, root, "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    return export_bundle("enh", checkpoints, root / "fp32"), files


@pytest.mark.parametrize("arch, name", configurations("diffusion"))
def test_diffusion(arch, name, tmp_path):
    """A seed gives ESPnet's waveforms, one mixture after the other."""
    normalize = dict(normalize=name != "dcunet")
    bundle, files = exported(arch, name, tmp_path, model_conf=normalize)
    ours, theirs = SeparateSpeech(bundle, seed=3), espnet_class(files)
    torch.manual_seed(3)
    for samples in (1203, 2407):
        mix = 0.1 * np.random.default_rng(samples).standard_normal((1, samples))
        mix = mix.astype(np.float32)
        [made], [expected] = ours(mix), theirs(mix)
        assert difference(made, expected) <= 1e-3
