"""Resampling, and models that always work at 48 kHz."""

import numpy as np
import pytest
import torch
from test_enh import espnet_class, exported

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enhancement.resample import resample


@pytest.mark.parametrize("samples", [1, 1003, 16000])
@pytest.mark.parametrize(
    "rates",
    [(8000, 48000), (48000, 8000), (44100, 48000), (48000, 44100), (16000, 16000)],
    ids=str,
)
def test_resampling(rates, samples):
    """Waveforms are torchaudio's, whichever rate is the lower."""
    from torchaudio.functional import resample as theirs

    wave = np.random.default_rng(samples).standard_normal((2, samples))
    wave = wave.astype(np.float32)
    expected = theirs(torch.from_numpy(wave), *rates).numpy()
    made = resample(wave, *rates)
    assert made.dtype == np.float32 and made.shape == expected.shape
    assert difference(made, expected) <= 1e-5


def test_lengths():
    """ESPnet's lengths, whose fractions float32 does not always hold."""
    from torchaudio.functional import resample as theirs

    for samples in (2_000_001, 1_470_001):
        wave = torch.randn(samples, device="meta")
        made = resample(np.zeros(samples, np.float32), 44100, 48000)
        assert len(made) == len(theirs(wave, 44100, 48000))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model that brings every mixture to 48 kHz."""
    conf = dict(always_forward_in_48k=True, normalize_variance=True)
    root = tmp_path_factory.mktemp("wide")
    return exported("tcn", "global", root, model_conf=conf)


@pytest.mark.parametrize("fs", [8000, 22050, 48000])
@pytest.mark.parametrize(
    "options",
    [
        dict(normalize_output_wav=True),
        dict(segment_size=0.5, hop_size=0.4, normalize_segment_scale=True),
    ],
    ids=str,
)
def test_forward_in_48k(wide, fs, options):
    """Outputs come back at the rate of the mixture, segments as long as ESPnet's."""
    bundle, files = wide
    mix = np.random.default_rng(fs).standard_normal((1, 9001)).astype(np.float32)
    ours = SeparateSpeech(bundle, **options)(mix, fs=fs)
    theirs = espnet_class(files, **options)(mix, fs=fs)
    for made, expected in zip(ours, theirs, strict=True):
        assert made.shape == expected.shape
        assert difference(made, expected) <= 1e-3


def test_bad_rate(wide):
    """A mixture that is too short at its own rate is refused."""
    bundle, _ = wide
    with pytest.raises(PluginError, match="too short, the model needs 2"):
        SeparateSpeech(bundle)(np.ones((1, 1), np.float32))
