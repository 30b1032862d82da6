"""Enhancement of streams: against ESPnet's streaming, and against whole mixtures."""

import io
import json
import logging
import wave
from types import SimpleNamespace

import enhance
import numpy as np
import pytest
import soundfile
import torch
import typeguard
from conftest import a_few
from test_enh import exported, recipe_data

from espnet_onnx_plugin.bin import enh_inference_streaming, optimize, quantize
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.enhancement import separate_frames
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming

#: Tiny configurations that stream, by separator.
STREAMED = [
    ("tcn", "causal_spectrum"),
    ("tcn", "causal"),
    ("skim", "causal"),
    ("rnn", "one_direction"),
    ("rnn", "lstm"),
    ("skim", "output"),
    ("skim", "cell"),
    ("skim", "handed_on_as_they_come"),
    ("skim", "one_block"),
    ("tcn", "causal_global"),
    ("tcn", "causal_global_spectrum"),
]


def noise(*shape: int) -> np.ndarray:
    """Made-up mixtures."""
    random = np.random.default_rng(shape[-1])
    return 0.1 * random.standard_normal(shape).astype(np.float32)


def espnet_class(files):
    """ESPnet's streaming class of these files."""
    from espnet2.bin.enh_inference_streaming import SeparateSpeechStreaming as Theirs

    return Theirs(str(files["config"]), str(files["file"]))


def fed(stream, mix: np.ndarray, size: int) -> np.ndarray:
    """A stream's outputs of a mixture that comes in pieces."""
    parts = [stream.feed(mix[i : i + size]) for i in range(0, len(mix), size)]
    return np.concatenate((*parts, stream.finish()), axis=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Bundles of tiny configurations with ESPnet's files, made once."""
    made: dict = {}

    def model(arch, name, **choices):
        key = (arch, name, *choices)
        if key not in made:
            root = tmp_path_factory.mktemp(name)
            made[key] = exported(arch, name, root, **choices)
        return made[key]

    return model


@pytest.mark.parametrize("case", a_few(STREAMED, 2), ids=str)
def test_frames_are_those_of_espnet(models, case):
    """The class is a drop-in: frames, calls, merge and reset, of several utterances."""
    bundle, files = models(*case)
    assert bundle.manifest.checks["parity"]["stream"] <= 1e-4
    ours, theirs = SeparateSpeechStreaming(bundle), espnet_class(files)
    for length in (1000, 731):  # the second after a reset
        mix = noise(2, length)
        frames = ours.frame(mix)
        expected = theirs.frame(torch.from_numpy(mix))
        np.testing.assert_array_equal(frames, np.stack([*expected]))
        made = separate_frames(ours, mix)
        lengths = torch.full((2,), length)
        theirs_made = [theirs(frame) for frame in expected]
        theirs.reset()
        for speaker, chunks in enumerate(zip(*theirs_made, strict=True)):
            merged = theirs.merge(chunks).numpy()
            assert difference(made[speaker], merged) <= 1e-4
            whole = ours.simulate(mix)[speaker]
            merged = theirs.merge(chunks, lengths).numpy()
            assert difference(whole, merged) <= 1e-4


@pytest.mark.parametrize("case", a_few(STREAMED, 2), ids=str)
def test_streams_get_what_whole_mixtures_get(models, case):
    """In pieces of one sample, of a few, and of all of them, again and again."""
    bundle, _ = models(*case)
    described = bundle.manifest.enhancement
    model = SeparateSpeechStreaming(bundle)
    stream = model.stream(fs=8000)
    assert stream.latency == described.stream.frame_size / 8000
    mix = noise(1501)
    expected = np.concatenate(SeparateSpeech(bundle)(mix[None]))
    if not described.stream.exact:
        expected = fed(stream, mix, len(mix))
    for size in (1, 7, 160, 1000, len(mix)):
        stream.reset()
        made = fed(stream, mix, size)
        assert made.shape == (described.outputs, 1501)
        assert difference(made, expected) <= 1e-4
    assert difference(fed(stream, mix, 300), expected) <= 1e-4
    assert stream.samples == 2 * 1501 and stream.real_time_factor > 0
    shortest = mix[: described.min_length]
    assert fed(stream, shortest, 3).shape == (described.outputs, len(shortest))


def test_outputs_come_as_soon_as_they_are_known(models):
    """A stream is never behind by more than its latency, nor keeps more."""
    model = SeparateSpeechStreaming(models("tcn", "causal_spectrum")[0])
    stream, mix, given = model.stream(), noise(4000), 0
    for i in range(0, 4000, 10):
        given += stream.feed(mix[i : i + 10]).shape[1]
        assert i + 10 - given < model.latency
    progress = stream._progress
    assert len(progress._waiting) < model.latency
    assert len(progress._last) == 33


def test_a_stream_that_is_scaled_and_brought_to_variance_1(models):
    """Neither the peak nor the deviation of a stream is known before its end."""
    variance = {"model_conf": {"normalize_variance": True}}
    bundle, _ = models("tcn", "causal", **variance)
    mix = 3 * noise(900)
    expected = np.concatenate(SeparateSpeech(bundle)(mix[None]))
    deviation = float(np.std(mix, ddof=1))
    streaming = SeparateSpeechStreaming(bundle)
    made = fed(streaming.stream(scale=0.5, deviation=deviation), mix, 100)
    assert difference(2 * made, expected) <= 1e-4
    with pytest.raises(PluginError, match="deviation 0"):
        streaming.stream(deviation=0.0)


@pytest.mark.parametrize(
    "settings, exact",
    [
        (dict(win_length=48, hop_length=12, window="hamming"), True),
        (dict(normalized=True, spec_transform_type="exponent"), True),
        (dict(win_length=47), False),
        (dict(center=False, window="hamming"), True),
    ],
    ids=str,
)
@pytest.mark.more
def test_transforms(tmp_path, settings, exact):
    """Windows that are shorter, transforms that ESPnet's streaming leaves undone."""
    conf = dict(n_fft=64, hop_length=16) | settings
    choices = dict(encoder_conf=conf, decoder_conf=conf)
    bundle, files = exported("tcn", "causal_spectrum", tmp_path, **choices)
    assert bundle.manifest.enhancement.stream.exact == exact
    model, mix = SeparateSpeechStreaming(bundle), noise(1, 1203)
    theirs = separate_frames(espnet_class(files), torch.from_numpy(mix))
    for made, expected in zip(separate_frames(model, mix), theirs, strict=True):
        assert difference(made, expected) <= 1e-4


@pytest.mark.more
def test_models_that_take_mixtures_whole(models, tmp_path):
    """They have no graph for streams, and are streamed by segments."""
    bundle, _ = models("tcn", "global")
    assert bundle.manifest.enhancement.stream is None
    with pytest.raises(PluginError, match="takes mixtures whole: a stream takes"):
        SeparateSpeechStreaming(bundle)
    for conf in (
        dict(channel=12, kernel_size=4, stride=8),
        dict(n_fft=64, hop_length=16, onesided=False),
    ):
        ends = "conv" if "channel" in conf else "stft"
        choices = dict(encoder=ends, decoder=ends)
        choices |= dict(encoder_conf=conf, decoder_conf=conf)
        name = "causal" if ends == "conv" else "causal_spectrum"
        other, _ = exported("tcn", name, tmp_path / ends, **choices)
        assert other.manifest.enhancement.stream is None


@pytest.mark.parametrize("scale", [False, True])
def test_segments_as_they_come(models, scale):
    """A stream by segments gets what the whole mixture gets by them."""
    bundle, _ = models("tcn", "causal")
    options = dict(segment_size=0.05, hop_size=0.03, normalize_segment_scale=scale)
    model = SeparateSpeech(bundle, **options)
    stream = model.stream(fs=8000)
    assert stream.latency == 0.05
    for length in (2000, 401, 400, 399, 641, 20):
        mix = noise(length)
        expected = np.concatenate(model(mix[None], fs=8000))
        for size in (1, 160, length):
            assert difference(fed(stream, mix, size), expected) <= 1e-5
    with pytest.raises(PluginError, match="set segment_size"):
        SeparateSpeech(bundle).stream()
    with pytest.raises(PluginError, match="nothing in common"):
        SeparateSpeech(bundle, segment_size=0.1, hop_size=0.1).stream()


def test_bad_input(models):
    """Each ends in one line that names the thing."""
    model = SeparateSpeechStreaming(models("tcn", "causal_spectrum")[0])
    for call, said in (
        (lambda: model(noise(1, 10)), r"\(utterances, 64\): cut it"),
        (lambda: model.frame(noise(10)), "has to be"),
        (lambda: model.frame(noise(1, 32)), "32 samples has no frame"),
        (lambda: model.merge([]), "no chunks"),
        (lambda: model.stream(fs=0), "sampling rate 0"),
        (lambda: model.stream().feed(noise(4, 2)), "2 channel"),
        (lambda: model.stream().feed(np.full(4, np.nan)), "not numbers"),
        (lambda: fed(model.stream(), noise(20), 5), "20 samples is too short"),
        (lambda: (model(noise(1, 64)), model(noise(2, 64))), "call reset"),
    ):
        with pytest.raises(PluginError, match=said):
            call()
    model.reset()
    stream = model.stream()
    assert stream.feed(noise(0)).shape == stream.finish().shape == (1, 0)
    assert stream.real_time_factor == 0


def test_command(models, tmp_path):
    """Writes ESPnet's files with ESPnet's waveforms, and the algorithmic latency."""
    from espnet2.bin import enh_inference_streaming as theirs

    bundle, files = models("tcn", "causal")
    data = [*recipe_data(tmp_path / "data"), "--fs", "8000"]
    out = "--output_dir"
    ours = ["--model_dir", f"{bundle.path}", out, f"{tmp_path}/ours", *data]
    enh_inference_streaming.main(ours)
    model = ["--train_config", f"{files['config']}", "--model_file", f"{files['file']}"]
    # The command assigns a Path to what is annotated as a string.
    with typeguard.suppress_type_checks():
        theirs.main([*model, out, f"{tmp_path}/theirs", *data, "--num_workers", "0"])
    for speaker in "12":
        expected = (tmp_path / f"theirs/spk{speaker}.scp").read_text()
        made = (tmp_path / f"ours/spk{speaker}.scp").read_text()
        assert made == expected.replace("/theirs/", "/ours/")
        for line in made.splitlines():
            path = line.split()[1]
            ours_made, rate = soundfile.read(path)
            other, other_rate = soundfile.read(path.replace("/ours/", "/theirs/"))
            assert rate == other_rate == 8000
            assert np.abs(ours_made - other).max() <= 1e-3
    for line in (tmp_path / "ours/timing.jsonl").read_text().splitlines():
        assert json.loads(line)["algorithmic_latency_seconds"] == 8 / 8000


@pytest.mark.parametrize("case", a_few(STREAMED[1:4]), ids=str)
def test_smaller_bundles(models, case, tmp_path, monkeypatch):
    """The graph for streams is fused and quantized as well, and gives much the same."""
    monkeypatch.setattr(lowering, "is_faster", lambda *_: True)
    bundle, _ = models(*case)
    mix = noise(1, 2000)
    expected = np.stack(SeparateSpeechStreaming(bundle).simulate(mix))
    for command, tolerance in ((optimize, 1e-4), (quantize, 0.2)):
        out = tmp_path / command.__name__
        command.main(["--model_dir", f"{bundle.path}", "--output_dir", f"{out}"])
        made = np.stack(SeparateSpeechStreaming(out).simulate(mix))
        assert difference(made, expected) <= tolerance
    figures = read_bundle(tmp_path / optimize.__name__).manifest.checks["optimize"]
    assert "separator_step" in figures["differences"]


def run_enhance(monkeypatch, *args, stdin: bytes = b"") -> bytes:
    """Standard output of scripts/enhance.py."""
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=out))
    with monkeypatch.context():
        enhance.main([str(arg) for arg in args])
    monkeypatch.undo()
    return out.getvalue()


def as_16_bits(waves: np.ndarray) -> np.ndarray:
    """Samples (samples, speakers) of waveforms."""
    return np.clip(np.round(waves.T * 2**15), -(2**15), 2**15 - 1)


def test_audio_is_enhanced_as_it_comes(models, tmp_path, monkeypatch):
    """Files, directories, and standard input with a header and without."""
    bundle, _ = models("tcn", "causal")
    (tmp_path / "in/below").mkdir(parents=True)
    samples = (noise(2500) * 2**15).astype("<i2")
    for name in ("a.wav", "below/b.flac"):
        soundfile.write(tmp_path / "in" / name, samples, 8000)
    mix = samples / np.float32(2**15)
    expected = as_16_bits(np.concatenate(SeparateSpeech(bundle)(mix[None])))
    model = ["--model_dir", bundle.path, "--output"]
    run_enhance(monkeypatch, *model, tmp_path / "out", tmp_path / "in")
    for name in ("a_spk1.wav", "a_spk2.wav", "below/b_spk1.wav", "below/b_spk2.wav"):
        made, rate = soundfile.read(tmp_path / "out" / name, dtype="int16")
        assert rate == 8000
        assert np.abs(made - expected[:, int(name[-5]) - 1]).max() <= 1
    file = io.BytesIO()
    with wave.open(file, "wb") as header:
        header.setparams((1, 2, 8000, 0, "NONE", ""))
        header.writeframes(samples.tobytes())
    for given, options in ((samples.tobytes(), ["--fs", "8k"]), (file.getvalue(), [])):
        out = run_enhance(monkeypatch, *model, "-", *options, "-", stdin=given)
        made = np.frombuffer(out, "<i2").reshape(-1, 2)
        assert np.abs(made - expected).max() <= 1
    flac = tmp_path / "one.flac"
    run_enhance(monkeypatch, *model, flac, "-", "--fs", "8k", stdin=samples.tobytes())
    assert soundfile.info(tmp_path / "one_spk2.flac").frames == 2500
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_peaks_are_told(models, tmp_path, monkeypatch, caplog):
    """Samples that were cut off, and the scale at which it would not have been."""
    bundle, _ = models("tcn", "causal_spectrum")
    soundfile.write(tmp_path / "a.wav", noise(2000), 8000)
    args = ["--model_dir", bundle.path, "--output", tmp_path / "b.wav"]
    with caplog.at_level(logging.INFO):
        run_enhance(monkeypatch, *args, "--scale", "1000", tmp_path / "a.wav")
    assert "latency 8.0 ms" in caplog.text
    said = next(r for r in caplog.messages if "cut off" in r)
    scale = said.split()[-1]
    run_enhance(monkeypatch, *args, "--scale", scale, tmp_path / "a.wav")
    made, _ = soundfile.read(tmp_path / "b.wav")
    assert np.abs(made).max() == pytest.approx(0.9, abs=1e-2)


def test_enhance_by_segments(models, tmp_path, monkeypatch):
    """A model that takes mixtures whole."""
    bundle, _ = models("tcn", "global")
    soundfile.write(tmp_path / "a.wav", noise(5000), 8000)
    args = ["--model_dir", bundle.path, "--output", tmp_path / "b.wav"]
    sizes = dict(segment_size=0.2, hop_size=0.15)
    options = [word for n, v in sizes.items() for word in (f"--{n}", v)]
    run_enhance(monkeypatch, *args, *options, tmp_path / "a.wav")
    mix, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    made = SeparateSpeech(bundle, **sizes)(mix[None], fs=8000)
    for number, expected in enumerate(made, 1):
        ours, _ = soundfile.read(tmp_path / f"b_spk{number}.wav", dtype="int16")
        assert np.abs(ours - as_16_bits(expected)[:, 0]).max() <= 1


def test_enhance_refuses(models, tmp_path, monkeypatch, capsys):
    """Each in one line."""
    bundle, _ = models("tcn", "causal_spectrum")
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "a.wav", noise(900), 8000)
    soundfile.write(tmp_path / "a.flac", noise(900), 8000)
    file = f"{tmp_path}/a.wav"
    for output, args, said in (
        ("-", [file], "only standard input"),
        ("x.wav", ["-", file], "no other input"),
        ("x.wav", ["-"], "no WAV file"),
        ("x.wav", [file, "--fs", "8k"], "--fs is for standard input"),
        (file, [file], "would be overwritten"),
        (file, [file, file], "is a file"),
        ("x", [file, f"{tmp_path}/a.flac"], "would both become"),
        ("x", [f"{tmp_path}/empty"], "holds no audio"),
        ("x.wav", [f"{tmp_path}/no.wav"], "no.wav"),
        ("x.abc", [file], "x.abc cannot be written"),
    ):
        if output[0] == "x":
            output = f"{tmp_path}/{output}"
        command = ["--model_dir", bundle.path, "--output", output, *args]
        with pytest.raises(SystemExit):
            run_enhance(monkeypatch, *command, stdin=b"abc")
        monkeypatch.undo()
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not list(tmp_path.glob("x*"))
