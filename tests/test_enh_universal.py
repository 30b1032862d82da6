"""Models of any number of channels, several rates and kinds of mixtures."""

import numpy as np
import pytest
from test_enh import espnet_class, exported

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.enhancement import limit
from espnet_onnx_plugin.runtime.enh import SeparateSpeech

CATEGORIES = ["1ch_8k", "1ch_8k_reverb"]


@pytest.fixture(scope="module")
def universal(tmp_path_factory):
    """A model with a memory for each kind of mixture, that averages channels."""
    root = tmp_path_factory.mktemp("universal")
    conf = dict(categories=CATEGORIES, normalize_variance=True)
    return exported("uses2", "comp", root, model_conf=conf)


def mixture(channels: int) -> np.ndarray:
    """Noise, the louder the later."""
    shape = (1, 2003, channels) if channels else (1, 2003)
    noise = np.random.default_rng(channels).standard_normal(shape)
    loudness = np.linspace(0.1, 1, 2003).reshape(-1, *[1] * (len(shape) - 2))
    return (noise * loudness).astype(np.float32)


@pytest.mark.parametrize("channels", [0, 2, 5])
@pytest.mark.parametrize("category", [None, 0, 1])
def test_channels_and_categories(universal, channels, category):
    """One bundle serves a single channel and many, with and without reverberation."""
    import torch

    bundle, files = universal
    theirs, given = {}, {}
    if category is not None:
        given = dict(utt2category=[category])
        theirs = dict(utt2category=torch.tensor([category]))
    mix = mixture(channels)
    made = SeparateSpeech(bundle)(mix, **given)
    for ours, expected in zip(made, espnet_class(files)(mix, **theirs), strict=True):
        assert difference(ours, expected) <= 1e-3


def test_reference_channel(universal):
    """A channel that the option names stands for all, in the place of their mean."""
    bundle, files = universal
    options = dict(ref_channel=3)
    made = SeparateSpeech(bundle, **options)(mixture(5))
    expected = espnet_class(files, **options)(mixture(5))
    assert difference(np.stack(made), np.stack(expected)) <= 1e-3
    assert difference(np.stack(made), np.stack(SeparateSpeech(bundle)(mixture(5)))) > 0


def test_refusals(universal):
    """A category that is not the model's, and a channel that is not there."""
    bundle, _ = universal
    with pytest.raises(PluginError, match="category 2 is none"):
        SeparateSpeech(bundle)(mixture(2), utt2category=[2])
    with pytest.raises(PluginError, match="ref_channel 3"):
        SeparateSpeech(bundle, ref_channel=3)(mixture(2))


@pytest.mark.parametrize(
    "rounding, allowed",
    [(0.0, 1e-3), (4e-4, 1e-3), (9e-4, 1.8e-3), (6e-3, 1e-3), (np.inf, 1e-3)],
)
def test_waveforms_may_be_as_far_as_rounding_takes_espnet(rounding, allowed):
    assert limit(rounding) == pytest.approx(allowed)
