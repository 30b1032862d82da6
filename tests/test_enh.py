"""Enhancement and separation: every separator against ESPnet's own inference."""

import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import configurations, save_enh
from espnet2.train.preprocessor import EnhPreprocessor

from espnet_onnx_plugin.bin import enh_inference
from espnet_onnx_plugin.bundle import Bundle, Stft
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enhancement import stft as numpy_stft
from espnet_onnx_plugin.runtime.enhancement.inputs import Mixtures


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
        # A mask makes the halves of both sides unlike.
        mask = np.random.default_rng(1).random(one.shape, np.float32)
        complex_one = torch.from_numpy(np.ascontiguousarray(one * mask))[None]
        expected, _ = layer.inverse(complex_one, torch.tensor([1003]))
        again = numpy_stft.inverse(one * mask, ours, 1003)
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


def recipe_data(directory, channels: int = 1, count: int = 3) -> list[str]:
    """A data directory's wav.scp, as the commands take it."""
    directory.mkdir()
    random = np.random.default_rng(5)
    lines = []
    for i in range(count):
        shape = (4000 + 700 * i, *[channels] * (channels > 1))
        path = directory / f"utt{i}.wav"
        soundfile.write(path, 0.1 * random.standard_normal(shape), 8000)
        lines.append(f"utt{i} {path}\n")
    (directory / "wav.scp").write_text("".join(lines))
    return ["--data_path_and_name_and_type", f"{directory}/wav.scp,speech_mix,sound"]


def test_command(tmp_path):
    """Writes ESPnet's files, with ESPnet's waveforms in them."""
    from espnet2.bin import enh_inference as theirs

    bundle, files = exported("tcn", "spectrum", tmp_path)
    data = recipe_data(tmp_path / "data")
    options = [*data, "--fs", "8k", "--normalize_output_wav", "true"]
    enh_inference.main(
        ["--model_dir", f"{bundle.path}", "--output_dir", f"{tmp_path}/ours", *options]
    )
    model = ["--train_config", f"{files['config']}", "--model_file", f"{files['file']}"]
    theirs.main([*model, "--output_dir", f"{tmp_path}/theirs", *options])
    names = ["spk1.scp", "spk2.scp", "wavs/1/utt0.wav", "wavs/2/utt2.wav"]
    for name in names:
        assert (tmp_path / "ours" / name).exists(), name
    for scp in names[:2]:
        expected = (tmp_path / "theirs" / scp).read_text()
        assert (tmp_path / "ours" / scp).read_text() == expected.replace(
            "/theirs/", "/ours/"
        )
        for line in expected.splitlines():
            path = line.split()[1]
            wave, rate = soundfile.read(
                path.replace("/theirs/", "/ours/"), dtype="int16"
            )
            other, other_rate = soundfile.read(path, dtype="int16")
            assert rate == other_rate == 8000
            assert np.abs(wave.astype(int) - other).max() <= 2
    timings = (tmp_path / "ours" / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in timings] == ["utt0", "utt1", "utt2"]
    assert json.loads(timings[0])["audio_seconds"] == 0.5


def test_command_names_what_it_cannot_enhance(tmp_path, capsys):
    """The others are kept, under a name that says so."""
    bundle, _ = exported("tcn", "global", tmp_path)
    data = recipe_data(tmp_path / "data")
    soundfile.write(tmp_path / "data" / "utt1.wav", np.zeros(3), 8000)
    command = ["--model_dir", f"{bundle.path}", "--output_dir", f"{tmp_path}/out"]
    with pytest.raises(SystemExit) as exit_code:
        enh_inference.main([*command, *data])
    assert exit_code.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 3 utterances" in said and "3 samples is too short" in said
    left = tmp_path / "out.incomplete"
    assert (left / "failed").read_text().startswith("utt1 ")
    assert len((left / "spk1.scp").read_text().splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_bad_input(tmp_path):
    """Each ends in one line that names the thing."""
    bundle, _ = exported("tcn", "global", tmp_path)
    model = SeparateSpeech(bundle)
    for mix, said in [
        (np.zeros(900), "has to be"),
        (np.full((1, 900), np.nan), "not numbers"),
        (np.zeros((1, 3)), "too short"),
        (np.zeros((1, 900, 2)), "2 channel"),
    ]:
        with pytest.raises(PluginError, match=said):
            model(mix)
    with pytest.raises(PluginError, match="hop_size 3"):
        SeparateSpeech(bundle, segment_size=2.0, hop_size=3.0)
    with pytest.raises(PluginError, match="unknown|unexpected"):
        SeparateSpeech(bundle, colour=1)


def test_preprocessor(tmp_path):
    """One channel of several, brought to a peak, as ESPnet's preprocessor does."""
    conf = dict(force_single_channel=True, speech_volume_normalize="0.4_1.0")
    choices = dict(preprocessor="enh", preprocessor_conf=conf)
    bundle, _ = exported("tcn", "global", tmp_path, **choices)
    data = recipe_data(tmp_path / "data", channels=2)
    path, name, kind = data[1].split(",")
    mixtures = Mixtures([(path, name, kind)])
    ours = mixtures.of("utt0", bundle.manifest.enhancement).speech_mix
    raw = soundfile.read(tmp_path / "data" / "utt0.wav")[0]
    theirs = EnhPreprocessor(train=False, **conf)("utt0", {"speech_mix": raw})
    np.testing.assert_allclose(ours, theirs["speech_mix"])
