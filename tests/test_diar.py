"""Diarization, alone and with separation, against ESPnet's own class and command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from conftest import RATE, a_few, run_readme, save_diar, save_enh_diar, waves
from test_enh_budget import derived

from espnet_onnx_plugin.bin import diar_inference, optimize, quantize
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import DiarizationBudget
from espnet_onnx_plugin.evaluate.diarization import DiarizationQuality, same_decisions
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.runtime.diar import DiarizeSpeech
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.job import TIMING
from espnet_onnx_plugin.runtime.io.records import RECORDS

#: Of an encoder behind a separation.
_RNN = dict(
    diar_encoder="rnn",
    diar_encoder_conf=dict(hidden_size=6, output_size=8, num_layers=1),
)

#: Sizes that are worth products in 8 bits.
_WIDE = dict(
    enh_separator_conf=dict(layer=2, stack=1, bottleneck_dim=32, hidden_dim=64),
    enh_mask_module_conf=dict(bottleneck_dim=32, max_num_spk=3),
    diar_input_size=32,
    diar_encoder_conf=dict(
        output_size=32, attention_heads=2, linear_units=48, num_blocks=1
    ),
    diar_attractor_conf=dict(unit=32),
)

#: Models that separate, by what is new in each: settings of separator and mask module,
#: and other choices.
JOINT = {
    "attractors": ("global", "relu", _WIDE),
    "features": (
        "spectrum",
        "softmax",
        dict(
            diar_frontend="default",
            diar_frontend_conf=dict(fs=RATE, n_fft=64, hop_length=30, n_mels=20),
            diar_normalize="utterance_mvn",
            diar_attractor_conf=dict(unit=8, layer=2, attractor_grad=False),
        ),
    ),
    "decoder": ("causal", "sigmoid", dict(_RNN, diar_attractor=None)),
    "deviation": (
        "global",
        "tanh",
        dict(
            enh_separator_conf=dict(layer=2, stack=1, bottleneck_dim=16, hidden_dim=10),
            enh_mask_module_conf=dict(
                bottleneck_dim=16, max_num_spk=2, mask_nonlinear="tanh"
            ),
            diar_input_size=16,
            diar_encoder="conformer",
            diar_encoder_conf=dict(
                output_size=8,
                attention_heads=2,
                linear_units=12,
                num_blocks=1,
                input_layer="conv2d8",
            ),
            diar_normalize_conf=dict(norm_means=False, norm_vars=True),
        ),
    ),
}


def made(task, root, files, source=None):
    """A bundle and what it was made of."""
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle(task, checkpoints, root / "fp32", source)
    return dict(files, task=task, bundle=bundle, root=root)


def joint(name, root):
    separator, mask, choices = JOINT[name]
    return made("enh_diar", root, save_enh_diar(separator, mask, root, **choices))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A model that counts up to three speakers and separates them."""
    root = tmp_path_factory.mktemp("two")
    directory = root / "data"
    directory.mkdir()
    lines = []
    for key, wave in mixtures().items():
        soundfile.write(directory / f"{key}.wav", wave, RATE)
        lines.append(f"{key} {directory / key}.wav\n")
    (directory / "wav.scp").write_text("".join(lines))
    separator, mask, choices = JOINT["attractors"]
    files = save_enh_diar(separator, mask, root, **choices)
    source = Source(directory / "wav.scp", "sound", 2)
    return dict(made("enh_diar", root, files, source), data=directory)


def mixtures():
    """Noise about a mean, by which ESPnet changes a mixture; float32."""
    return {
        key: (wave * 0.4 + 0.02).astype(np.float32) for key, wave in waves().items()
    }


def espnet(model, **options):
    """ESPnet's own class of a model's files."""
    from espnet2.bin.diar_inference import DiarizeSpeech as Theirs

    return Theirs(str(model["config"]), str(model["file"]), **options)


def both(model, speech, fs=RATE, **options):
    """Waveforms and activities of ours and of ESPnet's class."""
    if model["task"] == "enh_diar":
        options["enh_s2t_task"] = True
    ours = DiarizeSpeech(model["bundle"], **options)(speech.copy(), fs)
    return ours, espnet(model, **options)(speech.copy(), fs)


def assert_same(ours, theirs):
    (waves, activities), (expected, probabilities) = ours, theirs
    assert activities.dtype == probabilities.dtype == np.float32
    assert activities.shape == probabilities.shape
    assert np.abs(activities - probabilities).max(initial=0) <= 1e-4
    assert (waves is None) == (expected is None)
    for made, wave in zip(waves or [], expected or [], strict=True):
        assert difference(made, wave) <= 1e-3


@pytest.mark.parametrize("name", a_few(JOINT))
def test_joint_models(name, two, tmp_path):
    """Given numbers of speakers; the export itself compares every number."""
    model = two if name == "attractors" else joint(name, tmp_path)
    manifest = model["bundle"].manifest
    most = manifest.enhancement.outputs
    assert sum(role.startswith("masks_") for role in manifest.graphs) == most
    assert manifest.checks["parity"]["waveforms"] <= 1e-3
    assert manifest.checks["parity"]["diarization"] <= 1e-4
    fixed = manifest.diarization.num_spk
    batch = np.stack([wave[:3501] for wave in list(mixtures().values())[:2]])
    for number in range(1, most + 1) if fixed is None else [fixed]:
        assert_same(*both(model, batch, num_spk=number))


@pytest.mark.parametrize(
    "options",
    [
        dict(num_spk=2),
        dict(num_spk=3, segment_size=0.3, hop_size=0.2),
        dict(
            num_spk=2, segment_size=0.25, hop_size=0.125, normalize_segment_scale=True
        ),
        dict(num_spk=2, segment_size=0.3),  # whole: there is no hop
        dict(normalize_output_wav=True),
        dict(multiply_diar_result=True),
        dict(num_spk=3, multiply_diar_result=True, segment_size=0.3, hop_size=0.2),
    ],
    ids=str,
)
def test_options_are_espnets(two, options):
    for wave in mixtures().values():
        assert_same(*both(two, wave[None], **options))


def test_segments_that_begin_early_by_rounding(two):
    """3 * 0.15 is below 0.45; where the last one does, ESPnet's result is too long."""
    refused = 0
    for wave in mixtures().values():
        options = dict(num_spk=2, segment_size=0.25, hop_size=0.15)
        try:
            assert_same(*both(two, wave[None], **options))
        except AssertionError as e:
            assert "torch.Size" in str(e)
            refused += 1
            ours = DiarizeSpeech(two["bundle"], enh_s2t_task=True, **options)
            assert ours(wave[None])[0][1].shape == (1, len(wave))
    assert 0 < refused < 4


def test_speakers_are_counted_as_in_espnet(two):
    """In loud and in quiet recordings there are not as many."""
    numbers = set()
    for scale in (0.001, 1, 30):
        for wave in mixtures().values():
            try:
                ours, theirs = both(two, scale * wave[None])
            except IndexError:
                with pytest.raises(PluginError, match="the model separates 1 to 3"):
                    DiarizeSpeech(two["bundle"], enh_s2t_task=True)(scale * wave[None])
                continue
            assert_same(ours, theirs)
            numbers.add(len(ours[0]))
    assert numbers


def espnet_command(model, output, *args):
    from espnet2.bin import diar_inference as theirs

    files = ["--train_config", model["config"], "--model_file", model["file"]]
    theirs.main([str(a) for a in ("--output_dir", output, *files, *args)])


def our_command(model, output, *args):
    bundle = model["bundle"].path
    given = ("--model_dir", bundle, "--output_dir", output, *args)
    diar_inference.main([str(a) for a in given])


@pytest.mark.parametrize("number", [2, None])
def test_the_command_writes_espnets_files(two, tmp_path, number):
    config = tmp_path / "decode.yaml"
    config.write_text(
        "enh_s2t_task: True\nfs: 8000\nsegment_size: 0.4\nhop_size: 0.2\n"
        "normalize_output_wav: True\n" + (f"num_spk: {number}\n" if number else "")
    )
    scp = two["data"] / "wav.scp"
    args = ["--config", config, "--data_path_and_name_and_type", f"{scp},speech,sound"]
    args += ["--fs", "8k"]
    our_command(two, tmp_path / "ours", *args)
    espnet_command(two, tmp_path / "theirs", *args)
    lists = {p.name for p in (tmp_path / "theirs").glob("*.scp")}
    assert lists == {p.name for p in (tmp_path / "ours").glob("*.scp")}
    assert lists == {
        "diarize.scp",
        *(f"spk{n}.scp" for n in range(1, (number or 3) + 1)),
    }
    for name in lists:
        expected = (tmp_path / "theirs" / name).read_text()
        ours = (tmp_path / "ours" / name).read_text()
        assert ours == expected.replace("/theirs/", "/ours/")
        for path in (line.split()[1] for line in expected.splitlines()):
            our_path = path.replace("/theirs/", "/ours/")
            if name == "diarize.scp":
                made, other = np.load(our_path), np.load(path)
                assert made.shape == other.shape and made.dtype == other.dtype
                assert np.abs(made - other).max() <= 1e-4
                continue
            (made, rate), (other, other_rate) = (
                soundfile.read(p, dtype="int16") for p in (our_path, path)
            )
            assert rate == other_rate == 8000
            assert np.abs(made.astype(int) - other).max() <= 2
    timings = (tmp_path / "ours" / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in timings] == list(mixtures())


def test_the_command_names_what_it_cannot_diarize(two, tmp_path, capsys):
    """The others are kept, under a name that says so."""
    soundfile.write(tmp_path / "short.wav", np.zeros(3), RATE)
    scp = tmp_path / "wav.scp"
    known = (two["data"] / "wav.scp").read_text()
    scp.write_text(f"{known}utt9 {tmp_path}/short.wav\n")
    args = ["--enh_s2t_task", "true", "--num_spk", "2"]
    args += ["--data_path_and_name_and_type", f"{scp},speech,sound"]
    with pytest.raises(SystemExit) as stopped:
        our_command(two, tmp_path / "out", *args)
    assert stopped.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 5 utterances" in said and "3 samples is too short" in said
    left = tmp_path / "out.incomplete"
    assert (left / "failed").read_text().startswith("utt9 ")
    assert len((left / "diarize.scp").read_text().splitlines()) == 4
    assert not (tmp_path / "out").exists()


def test_the_shortest_mixture_is_espnets(two):
    least = two["bundle"].manifest.enhancement.min_length
    wave = mixtures()["utt0"][None]
    assert_same(*both(two, wave[:, :least], num_spk=2))
    with pytest.raises(PluginError, match="too short"):
        DiarizeSpeech(two["bundle"], enh_s2t_task=True)(wave[:, : least - 1])
    with pytest.raises(Exception, match="too short"):
        espnet(two, enh_s2t_task=True)(wave[:, : least - 1])


def test_bad_input(two):
    """Each ends in one line that names the thing."""
    model = DiarizeSpeech(two["bundle"], enh_s2t_task=True)
    for speech, said in [
        (np.zeros(900), "has to be"),
        (np.full((1, 900), np.nan), "not numbers"),
        (np.zeros((1, 900, 2)), "2 channel"),
        (np.zeros((2, 900)), "counted in one recording at a time"),
    ]:
        with pytest.raises(PluginError, match=said):
            model(speech)
    for options, said in [
        (dict(num_spk=4), "4 speakers: the model separates 1 to 3"),
        (dict(num_spk=0), "num_spk 0 must be 1 or more"),
        (dict(segment_size=0.2, hop_size=0.2), "hop_size 0.2 must be above 0"),
        (dict(segment_size=0.0), "segment_size 0.0"),
        (dict(colour=1), "unknown|unexpected"),
    ]:
        with pytest.raises(PluginError, match=said):
            DiarizeSpeech(two["bundle"], enh_s2t_task=True, **options)
    with pytest.raises(PluginError, match="enh_s2t_task False takes diar"):
        DiarizeSpeech(two["bundle"])


def test_other_models_are_refused(tmp_path):
    files = save_enh_diar("global", "relu", tmp_path)
    text = files["config"].read_text()
    for old, new, said in [
        ("- diar\n", "- asr\n", "subtask_series 'enh asr'"),
        ("separator: tcn_nomask", "separator: tcn", "separator_nomask 'tcn' is not"),
        ("mask_module: multi_mask", "mask_module: other", "mask_module 'other' is not"),
    ]:
        assert old in text
        files["config"].write_text(text.replace(old, new))
        with pytest.raises(PluginError, match=said):
            made("enh_diar", tmp_path, files)


ALONE = {
    "attractors": {},
    "decoder": dict(attractor=None, normalize=None),
    "features": dict(frontend=None, input_size=12, normalize="utterance_mvn"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A model that counts speakers, and does not separate them."""
    root = tmp_path_factory.mktemp("alone")
    return made("diar", root, save_diar(root))


@pytest.mark.parametrize("name", a_few(ALONE))
def test_diarization_alone(name, alone, tmp_path):
    """ESPnet's class; its command cannot write what the class returns."""
    model = alone
    if ALONE[name]:
        model = made("diar", tmp_path, save_diar(tmp_path, **ALONE[name]))
    speech = mixtures()["utt1"][None]
    if name == "features":
        speech = np.random.default_rng(0).standard_normal((1, 90, 12), np.float32)
    cases = [dict(num_spk=2), dict(num_spk=2, segment_size=0.3)]
    if name != "decoder":
        cases += [dict(), dict(segment_size=0.17)]
    for options in cases:
        fs = RATE if name != "features" else 100
        assert_same(*both(model, speech, fs, **options))


def test_the_command_of_diarization_alone(alone, tmp_path):
    soundfile.write(tmp_path / "a.wav", mixtures()["utt1"], RATE)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    data = ("--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound")
    our_command(alone, tmp_path / "out", *data, "--num_spk", 2)
    wave, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    _, [expected] = espnet(alone, num_spk=2)(wave[None])
    made_by_it = np.load(tmp_path / "out" / "predictions" / "a.npy")
    assert np.abs(made_by_it - expected).max() <= 1e-4
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("diarize.scp", "predictions", TIMING, RECORDS),
    }
    with pytest.raises(AssertionError, match="NoneType"):
        espnet_command(alone, tmp_path / "theirs", *data)


def test_optimized_and_quantized(two, tmp_path, monkeypatch):
    """Every number of speakers is compared; the budget is activities and waveforms."""
    monkeypatch.setattr(lowering, "is_faster", lambda *_: True)
    data = ("--calibration_scp", f"{two['data']}/wav.scp,sound")
    optimized = derived(optimize, two["bundle"], tmp_path / "optimized", *data)
    checks = optimized.manifest.checks["optimize"]
    assert checks["identical"] == checks["utterances"] == 4
    assert set(checks["differences"]) == set(two["bundle"].manifest.graphs)
    assert "not_compared" not in checks
    args = ("--inference_args", "--enh_s2t_task true --segment_size 0.4 --hop_size 0.2")
    limits = ("--min_activity_agreement", "0.95", "--min_separation_agreement", "25")
    output = tmp_path / "int8"
    quantized = derived(quantize, two["bundle"], output, *data, *args, *limits)
    figures = quantized.manifest.checks["quantize"]
    assert figures["utterances"] == 4 and figures["same_speakers"] <= 4
    assert figures["activity_agreement"] >= 0.95
    assert figures["separation_agreement"] >= 25
    made_up = derived(optimize, two["bundle"], tmp_path / "made_up")
    assert made_up.manifest.checks["optimize"]["audio"] == "made-up"


def test_a_speaker_more_is_a_disagreement():
    active = np.full((10, 2), 0.9)
    assert same_decisions(active, active) == (20, 20)
    assert same_decisions(active[:, :1], active) == (10, 20)
    assert same_decisions(np.full((10, 3), 0.1), active) == (0, 30)
    quality = dict(utterances=2, identical=0, same_speakers=2)
    budget = DiarizationBudget()
    alone = DiarizationQuality(**quality, activity_agreement=0.99)
    assert alone.within(budget)
    assert not replace(alone, activity_agreement=0.98).within(budget)
    assert not replace(alone, separation_agreement=19.0).within(budget)
    with pytest.raises(PluginError, match="min_activity_agreement 2"):
        DiarizationBudget(min_activity_agreement=2)


def test_the_readme(two):
    mixture = mixtures()["utt1"]
    given = run_readme("diarize = ", {"BUNDLE": two["bundle"].path}, mixture=mixture)
    _, expected = espnet(two, enh_s2t_task=True)(mixture[None].copy())
    assert given["activities"].shape == expected.shape
    assert np.abs(given["activities"] - expected).max() <= 1e-4
