"""Separation by clusters: k-means is ESPnet's, with all that is odd about it."""

import numpy as np
import pytest
import torch
from espnet2.enh.separator.dpcl_e2e_separator import DPCLE2ESeparator
from espnet2.enh.separator.dpcl_separator import DPCLSeparator

from espnet_onnx_plugin.bundle.enhancement import SoftKMeans
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.enhancement import clustering

FRAMES, BINS, SIZE = 40, 9, 4


def of_espnet(separator, scale: float):
    """Embeddings that it makes of ones, and its outputs."""
    torch.manual_seed(0)
    for parameter in separator.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    made = []
    separator.nonlinear.register_forward_hook(lambda _, __, y: made.append(y.clone()))
    with torch.no_grad():
        lengths = torch.tensor([FRAMES])
        outputs, _, others = separator.eval()(torch.ones(1, FRAMES, BINS), lengths)
    return made[0].reshape(-1, SIZE).numpy(), outputs, others


@pytest.mark.parametrize("scale", [1.0, 0.0])  # of 0 all embeddings are equal
@pytest.mark.parametrize("nonlinear", ["tanh", "relu"])
@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_k_means(clusters, nonlinear, scale):
    """Clusters are ESPnet's, and so are the first embeddings, which it moves."""
    separator = DPCLSeparator(
        BINS, num_spk=clusters, nonlinear=nonlinear, unit=5, emb_D=SIZE
    )
    embeddings, outputs, others = of_espnet(separator, scale)
    before = embeddings.copy()
    labels = clustering.k_means(embeddings, clusters)
    assert scale == 0 or not np.array_equal(before[:clusters], embeddings[:clusters])
    expected = torch.stack(outputs).argmax(dim=0).flatten()
    np.testing.assert_array_equal(labels, expected)
    moved = others["tf_embedding"][0].numpy()
    np.testing.assert_allclose(embeddings, moved, rtol=1e-5, atol=1e-6)


def test_k_means_without_an_end(monkeypatch):
    """Ends in one line, where ESPnet would go on."""
    monkeypatch.setattr(clustering, "ROUNDS", 1)
    embeddings = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    with pytest.raises(PluginError, match="no clusters after 1 rounds"):
        clustering.k_means(embeddings, 2)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(alpha=0.5, threshold=1e-12),
        dict(threshold=0.0, max_iteration=2),
        dict(alpha=200.0, max_iteration=20),  # infinite weights
    ],
    ids=str,
)
def test_soft_k_means(settings):
    """Weights are those that ESPnet multiplies the mixture by."""
    chosen = dict(alpha=5.0, max_iteration=500, threshold=1e-5) | settings
    separator = DPCLE2ESeparator(BINS, unit=5, emb_D=SIZE, **chosen)
    parts = []
    separator.enh_blstm.register_forward_pre_hook(lambda _, args: parts.append(args[0]))
    embeddings, *_ = of_espnet(separator, 1.0)
    weights = clustering.soft_k_means(embeddings, SoftKMeans(clusters=2, **chosen))
    expected = parts[0][0].unflatten(1, (3, BINS))[:, :2].transpose(1, 2)
    np.testing.assert_allclose(
        weights, expected.reshape(-1, 2).numpy(), rtol=1e-3, atol=1e-4
    )
