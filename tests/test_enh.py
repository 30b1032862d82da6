"""Enhancement and separation: every separator against ESPnet's own inference."""

import numpy as np
import pytest
import torch
from conftest import configurations, save_enh

from espnet_onnx_plugin.bundle import Bundle, Stft
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enhancement import stft as numpy_stft


def exported(arch: str, name: str, root, **choices) -> tuple[Bundle, dict]:
    """A bundle of a tiny configuration, and the files that it is made of."""
    files = save_enh(arch, name, root, **choices)
    checkpoints = Checkpoints(files["config"], files["file"])
    return export_bundle("enh", checkpoints, root / "fp32"), files


def espnet_class(files: dict, **options):
    """ESPnet's own class of these files."""
    from espnet2.bin.enh_inference import SeparateSpeech as Theirs

    return Theirs(str(files["config"]), str(files["file"]), **options)


@pytest.mark.parametrize("arch, name", configurations("separator"))
def test_separators(arch, name, tmp_path):
    """Each gives ESPnet's waveforms; the export itself compares several lengths."""
    bundle, files = exported(arch, name, tmp_path)
    assert bundle.manifest.checks["parity"]["waveforms"] <= 1e-3
    described = bundle.manifest.enhancement
    shape = () if described.channels == 1 else (described.channels or 2,)
    random = np.random.default_rng(1)
    mix = 0.1 * random.standard_normal((2, 5003, *shape)).astype(np.float32)
    ours = SeparateSpeech(bundle)(mix)
    theirs = espnet_class(files)(mix)
    assert len(ours) == len(theirs) == described.outputs
    for made, expected in zip(ours, theirs):
        assert made.shape == (2, 5003)
        assert difference(made, np.asarray(expected)) <= 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(win_length=50, hop_length=20, window="hamming"),
        dict(center=False, window="blackman", normalized=True),
        dict(onesided=False, window="bartlett", normalized=True),
        dict(window=None, hop_length=64),
    ],
    ids=str,
)
def test_transforms(settings):
    """The spectrum and its inverse are torch's, by ESPnet's layer."""
    from espnet2.layers.stft import Stft as Layer

    chosen = dict(n_fft=64, win_length=64, hop_length=16, window="hann") | settings
    ours, layer = Stft(**chosen), Layer(**chosen)
    wave = np.random.default_rng(0).standard_normal((1003, 2)).astype(np.float32)
    expected = layer(torch.from_numpy(wave)[None])[0][0].numpy()
    spectrum = numpy_stft.transform(wave, ours)
    assert spectrum.dtype == np.complex64
    made = np.stack((spectrum.real, spectrum.imag), axis=-1)
    assert difference(made, expected) <= 1e-6
    if settings.get("center", True):
        one = spectrum[:, 0]
        complex_one = torch.from_numpy(np.ascontiguousarray(one))[None]
        expected, _ = layer.inverse(complex_one, torch.tensor([1003]))
        again = numpy_stft.inverse(one, ours, 1003)
        assert difference(again, expected[0].numpy()) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        dict(segment_size=0.3, hop_size=0.2),
        dict(segment_size=0.25, hop_size=0.1, normalize_segment_scale=True),
        dict(normalize_output_wav=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("variance", [{}, {"normalize_variance": True}], ids=str)
def test_options(options, variance, tmp_path):
    """Segments, scales and peaks are ESPnet's."""
    bundle, files = exported("tcn", "global", tmp_path, model_conf=variance)
    mix = np.random.default_rng(2).standard_normal((1, 8037)).astype(np.float32)
    ours = SeparateSpeech(bundle, **options)(mix, fs=8000)
    theirs = espnet_class(files, **options)(mix, fs=8000)
    for made, expected in zip(ours, theirs, strict=True):
        assert difference(made, np.asarray(expected)) <= 1e-3
