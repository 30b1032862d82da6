"""Extraction of enrolled speakers: the bundle against ESPnet's own inference."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ENDS, build, configurations, save, write_data

from espnet_onnx_plugin.bin import enh_tse_inference, optimize
from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.evaluate.separation import Heard, SeparationBaseline
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enh_tse import SeparateSpeech


def exported(
    arch: str, name: str, root: Path, speakers: int = 2
) -> tuple[Bundle, dict[str, Path]]:
    """A bundle of a tiny configuration, and the files that it is made of."""
    from espnet2.tasks.enh_tse import TargetSpeakerExtractionTask

    from espnet_onnx_plugin.export.registry import find

    conf = dict(find("extractor", arch).tiny[name])
    ends, share = conf.pop("ends", "conv"), conf.pop("share_encoder", True)
    config = dict(TargetSpeakerExtractionTask.get_default_config())
    config.update(
        encoder=ends,
        encoder_conf=dict(ENDS[ends]),
        decoder=ends,
        decoder_conf=dict(ENDS[ends]),
        extractor=arch,
        extractor_conf=conf,
        criterions=[],
        model_conf=dict(num_spk=speakers, share_encoder=share),
        preprocessor="tse",
        load_spk_embedding=conf.get("use_spk_emb", False),
        init=None,
    )
    model = build(TargetSpeakerExtractionTask, config)
    files = save(model, config, root, "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    return export_bundle("enh_tse", checkpoints, root / "fp32"), files


def espnet_class(files: dict[str, Path], **options):
    """ESPnet's own class of these files."""
    from espnet2.bin.enh_tse_inference import SeparateSpeech as Theirs

    return Theirs(str(files["config"]), str(files["file"]), **options)


def enrollments(bundle: Bundle, utterances: int) -> dict[str, np.ndarray]:
    """Noise for enrollments of two speakers."""
    described = bundle.manifest.enhancement.enrollment
    shapes = dict(waveform=(3333,), features=(70, 12), embedding=(described.size,))
    random = np.random.default_rng(7)
    shape = (2, utterances, *shapes[described.reads])
    made = random.standard_normal(shape).astype(np.float32)
    return {f"enroll_ref{number}": one for number, one in enumerate(made, 1)}


@pytest.mark.parametrize("arch, name", configurations("extractor"))
def test_extractors(arch, name, tmp_path):
    """Each gives ESPnet's waveforms; the export itself compares several lengths."""
    bundle, files = exported(arch, name, tmp_path)
    assert bundle.manifest.checks["parity"]["waveforms"] <= 1e-3
    random = np.random.default_rng(1)
    mix = 0.1 * random.standard_normal((2, 5003)).astype(np.float32)
    enrolled = enrollments(bundle, 2)
    ours = SeparateSpeech(bundle)(mix, **enrolled)
    theirs = espnet_class(files)(mix, **enrolled)
    assert len(ours) == len(theirs) == 2
    for made, expected in zip(ours, theirs):
        assert made.shape == (2, 5003)
        assert difference(made, np.asarray(expected)) <= 1e-3
    assert difference(ours[0], ours[1]) > 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle, and the files that it is made of."""
    return exported("td_speakerbeam", "mul", tmp_path_factory.mktemp("tse"))


@pytest.mark.parametrize(
    "options",
    [
        dict(segment_size=0.3, hop_size=0.2),
        dict(segment_size=0.25, hop_size=0.1, normalize_segment_scale=True),
        dict(normalize_output_wav=True),
    ],
    ids=str,
)
def test_options(model, options):
    """Segments, scales and peaks are ESPnet's."""
    bundle, files = model
    mix = np.random.default_rng(2).standard_normal((1, 8037)).astype(np.float32)
    enrolled = enrollments(bundle, 1)
    ours = SeparateSpeech(bundle, **options)(mix, fs=8000, **enrolled)
    theirs = espnet_class(files, **options)(mix, fs=8000, **enrolled)
    for made, expected in zip(ours, theirs, strict=True):
        assert difference(made, np.asarray(expected)) <= 1e-3


def test_speakers_who_changed_places_cost(model):
    """The clean speech of each enrolled speaker is held against that one's output."""
    bundle, _ = model
    random = np.random.default_rng(3)
    clean = 0.1 * random.standard_normal((2, 8000)).astype(np.float32)
    heard = {"utt": Heard({"fs": 8000}, tuple(clean))}
    baseline = SeparationBaseline(bundle, Device(), {}, {}, heard, {})
    right = baseline.score({"utt": clean}).si_snr
    assert right > 40 > 0 > baseline.score({"utt": clean[::-1]}).si_snr


def test_enrolled_once(model):
    """An enrollment's embedding is computed once; one speaker alone may be enrolled."""
    bundle, _ = model
    separate = SeparateSpeech(bundle)
    enrolled = enrollments(bundle, 1)
    mix = np.random.default_rng(2).standard_normal((1, 4000)).astype(np.float32)
    both = separate(mix, **enrolled)
    embedding = separate.enroll(enrolled["enroll_ref2"][0])
    assert separate.enroll(enrolled["enroll_ref2"][0].copy()) is embedding
    [alone] = separate(mix, enroll_ref2=enrolled["enroll_ref2"])
    assert difference(alone, both[1]) <= 1e-5


@pytest.mark.parametrize(
    "enrolled, reason",
    [
        ({}, "nobody is enrolled: give enroll_ref1, enroll_ref2"),
        ({"enroll_ref1": np.zeros((2, 4000))}, "1 mixtures, and other numbers"),
        ({"enroll_ref1": np.zeros((1, 40, 2))}, r"has to be \(samples,\)"),
        ({"enroll_ref1": np.zeros((1, 3))}, "is too short, the model needs 8"),
        ({"enroll_ref1": np.full((1, 4000), np.nan)}, "are not numbers"),
    ],
    ids=str,
)
def test_bad_enrollments(model, enrolled, reason):
    """Each is named with its remedy."""
    bundle, _ = model
    with pytest.raises(PluginError, match=reason):
        SeparateSpeech(bundle)(np.ones((1, 4000), np.float32), **enrolled)


def recipe_data(directory: Path, embedding: int | None = None) -> list[str]:
    """Options of mixtures and enrollments, of two speakers, in a recipe's files."""
    write_data(directory)
    keys = [line.split()[0] for line in (directory / "wav.scp").open()]
    options = ["--data_path_and_name_and_type", f"{directory}/wav.scp,speech_mix,sound"]
    random = np.random.default_rng(5)
    for speaker in (1, 2):
        scp = directory / f"enroll_spk{speaker}.scp"
        with open(scp, "w", encoding="utf-8") as f:
            for number, key in enumerate(keys):
                path = directory / f"enroll{speaker}_{key}"
                if embedding is None:
                    path = path.with_suffix(".wav")
                    wave = 0.1 * random.standard_normal(3000 + 100 * number)
                    soundfile.write(path, wave, 8000)
                else:
                    path = path.with_suffix(".npy")
                    np.save(path, random.standard_normal(embedding).astype("float32"))
                f.write(f"{key} {path}\n")
        options += ["--data_path_and_name_and_type", f"{scp},enroll_ref{speaker},text"]
    return options


def compare_commands(bundle: Bundle, files: dict, data: list[str], root: Path) -> None:
    """Run ours and ESPnet's, and compare what they write."""
    from espnet2.bin import enh_tse_inference as theirs

    options = [*data, "--fs", "8k", "--normalize_output_wav", "true"]
    enh_tse_inference.main(
        ["--model_dir", f"{bundle.path}", "--output_dir", f"{root}/ours", *options]
    )
    model = ["--train_config", f"{files['config']}", "--model_file", f"{files['file']}"]
    theirs.main([*model, "--output_dir", f"{root}/theirs", *options])
    for scp in ("spk1.scp", "spk2.scp"):
        expected = (root / "theirs" / scp).read_text()
        ours = (root / "ours" / scp).read_text()
        assert ours == expected.replace("/theirs/", "/ours/")
        for path in (line.split()[1] for line in expected.splitlines()):
            other, _ = soundfile.read(path, dtype="int16")
            ours_path = path.replace("/theirs/", "/ours/")
            wave, rate = soundfile.read(ours_path, dtype="int16")
            assert rate == 8000
            assert np.abs(wave.astype(int) - other).max() <= 2


def test_command(model, tmp_path):
    """Writes ESPnet's files, with ESPnet's waveforms in them."""
    compare_commands(*model, recipe_data(tmp_path / "data"), tmp_path)
    timings = (tmp_path / "ours" / "timing.jsonl").read_text().splitlines()
    assert len(timings) == 4 and json.loads(timings[0])["audio_seconds"] == 0.5


@pytest.mark.more
def test_command_with_embeddings(tmp_path):
    """Embeddings of another model are read from ``.npy`` files."""
    bundle, files = exported("td_speakerbeam", "given", tmp_path)
    compare_commands(bundle, files, recipe_data(tmp_path / "data", 5), tmp_path)


def test_command_refuses(model, tmp_path, capsys):
    """Too few enrollments end at once; one of training is named with its utterance."""
    data = recipe_data(tmp_path / "data")
    command = ["--model_dir", f"{model[0].path}", "--output_dir", f"{tmp_path}/ours"]
    with pytest.raises(SystemExit):
        enh_tse_inference.main([*command, *data[:-2]])
    assert "extracts 2 enrolled speaker(s)" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
    scp = tmp_path / "data" / "enroll_spk2.scp"
    lines = scp.read_text().splitlines()
    scp.write_text("\n".join([f"{lines[0].split()[0]} *utt0 speaker", *lines[1:]]))
    with pytest.raises(SystemExit):
        enh_tse_inference.main([*command, *data])
    assert "1 of 4 utterances" in capsys.readouterr().err
    failed = tmp_path / "ours.incomplete" / "failed"
    assert "drawn at random in training" in failed.read_text()


def test_derived(model, tmp_path):
    """Fused graphs give the same, of made-up mixtures and enrollments."""
    command = ["--model_dir", f"{model[0].path}", "--output_dir", f"{tmp_path}/fused"]
    optimize.main(command)
    figures = read_bundle(tmp_path / "fused").manifest.checks["optimize"]
    assert figures["identical"] == figures["utterances"] == 4
