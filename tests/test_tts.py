"""Text to speech: every model and option against ESPnet's own inference."""

import dataclasses
import functools
import inspect
import json
import math
import re
import shutil
import sys
from unittest import mock

import librosa
import numpy as np
import onnx_ir as ir
import pytest
import soundfile
import torch
import yaml
from conftest import (
    NO_SEARCH,
    NO_TEXT,
    RATE,
    configurations,
    run_readme,
    save_tts,
    tts_task,
)
from sweeping.build import randomize
from test_half import HALF, differences_in_half

from espnet_onnx_plugin.bin import export, optimize, quantize, tts_inference
from espnet_onnx_plugin.bundle import Bundle, Manifest, Synthesis, read_bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.bundle.search import Durations, Pitch
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.evaluate.recorder import InputRecorder
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.graph import export_graphs
from espnet_onnx_plugin.export.layers.draws import dropouts_are_of_mkl
from espnet_onnx_plugin.export.layers.vocoder import context
from espnet_onnx_plugin.export.parity.synthesis import compare_outputs
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.optimize import fuse
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.synthesis.griffin_lim import GriffinLim
from espnet_onnx_plugin.runtime.synthesis.teacher_forcing import (
    maximum_path,
    path_of,
    pitch_of_frames,
)
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
from espnet_onnx_plugin.runtime.synthesis.vocoder import Vocoder, VocoderInputs
from espnet_onnx_plugin.runtime.tts import Text2Speech


def voice(samples=2400):
    """A voice whose pitch goes up and down, with pauses."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * (150 * time + np.sin(20 * time))
    wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * (np.sin(40 * time) > -0.5)
    noise = np.random.default_rng(2).standard_normal(samples)
    return (0.1 * wave + 0.01 * noise).astype(np.float32)


TEXT = np.random.default_rng(0).integers(1, 25, 19)

#: What the tiny models read besides text, by name.
OTHERS = dict(
    sids=np.array([1]),
    lids=np.array([1]),
    spembs=np.random.default_rng(1).standard_normal(5).astype(np.float32),
    speech=voice(),
)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Gives a tiny model of ESPnet, ``architecture/configuration``, and its bundle."""

    @functools.cache
    def give(what):
        arch, name = what.split("/")
        files = save_tts(arch, name, tmp_path_factory.mktemp("tts"))
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("tts", checkpoints, files["file"].parent / "onnx")
        return files, bundle

    return give


def espnet(files, **options):
    """ESPnet's ``Text2Speech``."""
    tts_task()
    from espnet2.bin.tts_inference import Text2Speech

    return Text2Speech(files["config"], files["file"], **options)


def inputs(bundle):
    needed = bundle.manifest.synthesis.reads
    return dict(text=TEXT, **{name: OTHERS[name] for name in needed})


def speak(ours, theirs, given, seed=0, **call):
    """Outputs of both for a text, with the same draws; ESPnet's are tensors."""
    ours.noise = Noise(seed, mkl=dropouts_are_of_mkl())
    made = ours(**given, **call)
    torch.manual_seed(seed)
    draw = functools.partial(librosa.griffinlim, random_state=seed)
    with mock.patch.object(librosa, "griffinlim", draw):
        return made, theirs(**given, **call)


def agree(made, reference):
    assert set(made) == set(reference)
    if "wav" in made:  # joint models give ESPnet an axis more
        reference = {**reference, "wav": reference["wav"].reshape(-1)}
    compare_outputs(made, reference, "the text")


FIRST, *OTHERS_IN_FULL = configurations("tts")


@pytest.mark.parametrize(
    "arch, name",
    [FIRST]
    + [
        pytest.param(*case.values, id=case.id, marks=pytest.mark.more)
        for case in OTHERS_IN_FULL
    ],
)
def test_a_model_in_float16(arch, name, exported):
    _, bundle = exported(f"{arch}/{name}")
    recorder = InputRecorder(bundle)
    Text2Speech(bundle, session=dict(watch=recorder.record))(**inputs(bundle))
    in_half = differences_in_half(bundle, recorder)
    assert max(in_half.values()) < HALF


@pytest.mark.espnet
@pytest.mark.parametrize("arch, name", configurations("tts"))
def test_a_model_speaks_as_in_espnet(arch, name, exported):
    files, bundle = exported(f"{arch}/{name}")
    parity = bundle.manifest.checks["parity"]
    assert all(0 <= figure <= TOLERANCE for figure in parity.values())
    given = inputs(bundle)
    made, reference = speak(Text2Speech(bundle), espnet(files), given, seed=9)
    agree(made, reference)
    assert len(made["wav"]) == reference["wav"].numel() > 8


#: Models without teacher forcing in ESPnet, which reads pitch of the durations given:
#: JETS does not take these, and the other's configuration says nothing of pitch.
NOT_FORCED = ("jets/conformer", "joint_text2wav/fastspeech2_hifigan")


def forced_inputs(bundle):
    given = {**inputs(bundle), "speech": OTHERS["speech"]}
    if "durations" in bundle.manifest.search.teacher_forcing:
        frames = 1 + len(given["speech"]) // 8
        factor = getattr(bundle.manifest.search.pitch, "reduction_factor", 1)
        shares = np.random.default_rng(5).dirichlet(np.ones(len(TEXT) + 1))
        random = np.random.default_rng(6)
        given["durations"] = random.multinomial(frames // factor, shares)
    return given


FORCED = dict(use_teacher_forcing=True)


@pytest.mark.espnet
@pytest.mark.parametrize(
    "arch, name",
    [case for case in configurations("tts") if "/".join(case.values) not in NOT_FORCED],
)
def test_teacher_forcing_is_espnets(arch, name, exported):
    files, bundle = exported(f"{arch}/{name}")
    given = forced_inputs(bundle)
    ours, theirs = Text2Speech(bundle, **FORCED), espnet(files, **FORCED)
    assert ours.use_speech
    made, reference = speak(ours, theirs, given, seed=9)
    agree(made, reference)
    other = ours(**given, decode_conf=dict(use_teacher_forcing=False))
    assert made["wav"].shape != other["wav"].shape
    if "feat_gen" in made and "durations" not in given:
        shift = len(made["feat_gen"]) / (1 + len(given["speech"]) // 8)
        assert shift > 0.99  # as long as the teacher, but for what is no whole step
    for name in ("speech", "durations"):
        if name in given and name in bundle.manifest.search.teacher_forcing:
            short = {k: v for k, v in given.items() if k != name}
            with pytest.raises(RuntimeError, match=f"argument: '{name}'"):
                ours(**short)


@pytest.mark.parametrize("what", NOT_FORCED)
def test_teacher_forcing_that_espnet_cannot_do_is_refused(what, exported):
    files, bundle = exported(what)
    with pytest.raises(PluginError, match="use_teacher_forcing: .* cannot be taught"):
        Text2Speech(bundle, **FORCED)
    with pytest.raises(PluginError, match="use_teacher_forcing: .* cannot be taught"):
        Text2Speech(bundle)(**inputs(bundle), decode_conf=FORCED)
    given = dict(forced_inputs(bundle), durations=np.ones(len(TEXT) + 1, np.int64))
    with pytest.raises((TypeError, AttributeError)):
        espnet(files, **FORCED)(**given)


def test_teacher_forcing_by_what_does_not_fit_is_refused(exported, monkeypatch):
    bundle = exported("fastspeech2/conformer")[1]
    ours, given = Text2Speech(bundle, **FORCED), forced_inputs(bundle)
    for change, message in (
        (dict(durations=given["durations"] + 1), "340 frames, the speech has 301"),
        (dict(durations=given["durations"][1:]), "19 durations are given for 20"),
        (dict(speech=given["speech"][:9]), "speech of 9 samples is too short"),
    ):
        with pytest.raises(PluginError, match=message):
            ours(**{**given, **change})
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(PluginError, match="pip install pyworld"):
        ours(**given)
    bundle = exported("vits/one_speaker")[1]
    short = dict(forced_inputs(bundle), speech=OTHERS["speech"][:100])
    with pytest.raises(PluginError, match="cannot be aligned with 19 symbols"):
        Text2Speech(bundle, **FORCED)(**short)


@pytest.mark.parametrize(
    "frames, symbols", [(1, 1), (6, 6), (7, 6), (40, 1), (300, 41)]
)
def test_the_maximum_path_is_espnets(frames, symbols):
    from espnet2.gan_tts.vits import monotonic_align

    random = np.random.default_rng(frames)
    for scale in (1, 100):
        scores = (scale * random.standard_normal((frames, symbols))).astype(np.float32)
        scores = scores.round()  # with ties
        reference = monotonic_align.maximum_path(
            torch.from_numpy(scores)[None], torch.ones(1, frames, symbols)
        )
        assert np.array_equal(path_of(maximum_path(scores), symbols), reference[0])


#: Settings of a pitch that is neither averaged nor normalized.
UNCHANGED = dict(reduction_factor=1, shift=None, scale=None)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("log", [True, False])
def test_pitch_is_espnets(continuous, log):
    tts_task()
    from espnet2.tts.feats_extract.dio import Dio

    settings = dict(
        fs=RATE,
        hop_length=40,
        f0min=80,
        f0max=400,
        use_continuous_f0=continuous,
        use_log_f0=log,
    )
    extract = Dio(**settings, n_fft=64, use_token_averaged_f0=False)
    for speech in (voice(8000), voice(8000) * 0):
        reference = extract(torch.from_numpy(speech)[None])[0][0, :, 0].numpy()
        made = pitch_of_frames(speech, Pitch(**settings, **UNCHANGED))
        np.testing.assert_allclose(made, reference, rtol=1e-6)
        assert speech.any() == made.any()


OPTIONS = {
    "fastspeech2/transformer": [
        dict(speed_control_alpha=1.3),
        dict(speed_control_alpha=0.7),
        dict(prefer_normalized_feats=True),
    ],
    "vits/one_speaker": [
        dict(speed_control_alpha=1.3),
        dict(speed_control_alpha=0.7),
        dict(noise_scale=0.2),
        dict(noise_scale_dur=2.5),
    ],
    "tacotron2/location": [
        dict(use_att_constraint=True, maxlenratio=1.5),
        dict(
            use_att_constraint=True,
            backward_window=3,
            forward_window=2,
            maxlenratio=1.5,
        ),
        dict(threshold=0.01),
        dict(minlenratio=0.5, threshold=0.01),
    ],
    "tacotron2/forward": [dict(maxlenratio=1.33), dict(maxlenratio=2.1)],
    "transformer/norm_after": [
        dict(maxlenratio=1.33),
        dict(minlenratio=0.5, maxlenratio=1.0, threshold=0.01),
    ],
}


@pytest.mark.espnet
@pytest.mark.parametrize(
    "what, options",
    [(what, options) for what, tried in OPTIONS.items() for options in tried],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_an_option_has_espnets_effect(what, options, exported):
    files, bundle = exported(what)
    given = inputs(bundle)
    ours, theirs = Text2Speech(bundle, **options), espnet(files, **options)
    made, reference = speak(ours, theirs, given)
    agree(made, reference)
    ours.noise = Noise(0, mkl=dropouts_are_of_mkl())
    without = {name: getattr(type(ours.options), name) for name in options}
    usual = ours(**given, decode_conf=without)
    if "prefer_normalized_feats" not in options:  # which chooses among what is made
        assert any(difference(made[name], usual[name]) > 1e-3 for name in made)


def test_options_change_for_one_call(exported):
    files, bundle = exported("fastspeech2/transformer")
    ours, theirs = Text2Speech(bundle), espnet(files)
    usual = ours(**inputs(bundle))
    for conf in (dict(alpha=1.6), {}):
        agree(*speak(ours, theirs, inputs(bundle), decode_conf=conf))
    ours_once = ours(**inputs(bundle), decode_conf=dict(speed_control_alpha=1.6))
    assert len(ours_once["feat_gen"]) > len(usual["feat_gen"])
    with pytest.raises(PluginError, match="decode_conf.*nonesuch"):
        ours(**inputs(bundle), decode_conf=dict(nonesuch=1))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(speed_control_alpha=0.0), "speed_control_alpha 0.0 must be above 0"),
        (dict(maxlenratio=0.0), "maxlenratio 0.0 must be above 0"),
        (dict(minlenratio=3.0, maxlenratio=2.0), "minlenratio 3.0 not above"),
        (dict(nonesuch=1), "nonesuch"),
    ],
)
def test_an_option_that_cannot_be_met_is_refused(options, message, exported):
    with pytest.raises(PluginError, match=message):
        Text2Speech(exported("fastspeech2/transformer")[1], **options)


def test_durations_that_are_all_zero_count_as_ones(exported, tmp_path):
    files, bundle = exported("fastspeech2/transformer")
    fast = dict(alpha=0.01)  # the speed makes them so
    agree(*speak(Text2Speech(bundle), espnet(files), inputs(bundle), decode_conf=fast))
    weights = torch.load(files["file"])
    weights["tts.duration_predictor.linear.bias"] -= 20  # the model itself does
    torch.save(weights, tmp_path / "model.pth")
    short = dict(files, file=tmp_path / "model.pth")
    checkpoints = Checkpoints(short["config"], short["file"])
    bundle = export_bundle("tts", checkpoints, tmp_path / "onnx")
    made, reference = speak(Text2Speech(bundle), espnet(short), inputs(bundle))
    agree(made, reference)
    assert len(made["feat_gen"]) == len(made["duration"])
    source = bundle.manifest.source
    for espnet_release, given in (("202511", 1), ("202604", 1), ("202611", 0)):
        source = {**source, "espnet": espnet_release}
        manifest = dataclasses.replace(bundle.manifest, source=source)
        made = Text2Speech(Bundle(bundle.path, manifest))(**inputs(bundle))
        assert (made["duration"] == given).all()
        assert len(made["feat_gen"]) == len(made["duration"])


def test_keys_of_fastspeech2_that_change_nothing_for_one_text(tmp_path):
    from espnet2.tts.fastspeech2 import FastSpeech2

    known = inspect.signature(FastSpeech2).parameters
    keys = dict(apply_ff_mask=True, bucket_infer=False, enc_buckets=[8, 64])
    conf = {name: value for name, value in keys.items() if name in known}
    conf.update(find("tts", "fastspeech2").tiny["transformer"])
    files = save_tts("fastspeech2", "transformer", tmp_path / "tts", tts_conf=conf)
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("tts", checkpoints, tmp_path / "onnx")
    agree(*speak(Text2Speech(bundle), espnet(files), inputs(bundle)))


def test_a_package_of_the_pitch_that_is_missing_is_named(
    exported, tmp_path, monkeypatch
):
    files, _ = exported("fastspeech2/transformer")
    monkeypatch.setitem(sys.modules, "pyworld", None)
    checkpoints = Checkpoints(files["config"], files["file"])
    with pytest.raises(PluginError, match="^pitch_extract 'dio'.*pip install pyworld$"):
        export_bundle("tts", checkpoints, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_durations_can_be_given_to_vits(exported):
    files, bundle = exported("vits/one_speaker")
    ours, theirs = Text2Speech(bundle), espnet(files)
    durations = np.random.default_rng(3).integers(0, 4, len(TEXT))
    ours.noise = Noise(0)
    made = ours(TEXT, durations=durations)
    torch.manual_seed(0)
    with torch.no_grad():  # ESPnet's Text2Speech does not hand them on
        reference = theirs.tts.inference(
            torch.from_numpy(TEXT), durations=torch.from_numpy(durations)
        )
    assert np.array_equal(made["duration"], durations)
    assert len(made["wav"]) == 8 * durations.sum()
    assert difference(made["wav"], reference["wav"].numpy()) <= TOLERANCE
    for wrong, message in (
        (durations[1:], "18 durations are given for 19 symbols"),
        (durations * 0, "not all 0"),
        (durations - 2, "0 or above"),
    ):
        with pytest.raises(PluginError, match=message):
            ours(TEXT, durations=wrong)


@pytest.mark.parametrize(
    "what, missing",
    [
        ("fastspeech/conformer", "sids"),
        ("fastspeech/conformer", "lids"),
        ("fastspeech/conformer", "spembs"),
        ("fastspeech/style", "speech"),
    ],
)
def test_what_a_model_reads_has_to_be_given(what, missing, exported):
    files, bundle = exported(what)
    given = inputs(bundle)
    del given[missing]
    ours = Text2Speech(bundle)
    assert getattr(ours, f"use_{missing}")
    messages = set()
    for model in (ours, espnet(files)):
        with pytest.raises(RuntimeError) as e:
            model(**given)
        messages.add(str(e.value))
    assert messages == {f"Missing required argument: '{missing}'"}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sids=-1), "sids has to be one id from 0 to 2, not '-1'"),
        (dict(sids=np.array([3])), "sids has to be one id from 0 to 2, not '3'"),
        (dict(sids=[1, 2]), "sids has to be one id from 0 to 2, not '1 2'"),
        (dict(sids=[]), "sids has to be one id from 0 to 2, not ''"),
        (dict(sids=1.7), "sids has to be integers, not 1.7"),
        (dict(sids="one"), "sids has to be integers, not one"),
        (dict(sids=np.nan), "sids has to be integers, not nan"),
        (dict(lids=-1), "lids has to be one id from 0 to 1, not '-1'"),
        (dict(lids=2), "lids has to be one id from 0 to 1, not '2'"),
        (dict(spembs=np.ones(4)), "spembs of 4 numbers: the model takes 5"),
        (dict(spembs=np.ones((2, 5))), "spembs of 10 numbers: the model takes 5"),
        (dict(spembs=np.zeros(5)), "spembs are all 0"),
        (dict(spembs=[1, 1, np.nan, 1, 1]), "spembs holds NaN or infinity"),
        (dict(text=[1, -1]), "text has token id -1, not one from 0 to 29"),
        (dict(text=[1, 30]), "text has token id 30, not one from 0 to 29"),
        (dict(text=[1.5]), "text has to be integers"),
        (dict(text=""), "the text has no token"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_what_a_model_cannot_take_is_refused(change, message, exported):
    bundle = exported("fastspeech/conformer")[1]
    with pytest.raises(PluginError, match=f"^{re.escape(message)}"):
        Text2Speech(bundle)(**{**inputs(bundle), **change})


def test_speech_with_nan_is_refused(exported):
    bundle = exported("fastspeech/style")[1]
    speech = OTHERS["speech"].copy()
    speech[7] = np.nan
    with pytest.raises(PluginError, match="speech holds NaN or infinity"):
        Text2Speech(bundle)(**{**inputs(bundle), "speech": speech})


def test_what_a_model_does_not_read_is_not_looked_at(exported):
    bundle = exported("fastspeech/transformer")[1]
    usual = Text2Speech(bundle)(TEXT)
    made = Text2Speech(bundle)(TEXT, sids=-1, spembs=np.zeros(3))
    assert np.array_equal(made["feat_gen"], usual["feat_gen"])


def test_a_bundle_that_does_not_say_how_many_speakers_is_read(exported, tmp_path):
    bundle = exported("fastspeech/conformer")[1]
    assert bundle.manifest.synthesis.speakers == 3
    assert bundle.manifest.synthesis.languages == 2
    shutil.copytree(bundle.path, tmp_path / "old")
    manifest = tmp_path / "old/manifest.yaml"
    lines = manifest.read_text().splitlines(keepends=True)
    new = ("speakers:", "languages:")
    kept = [line for line in lines if not line.strip().startswith(new)]
    assert len(kept) == len(lines) - 2
    manifest.write_text("".join(kept))
    old = Text2Speech(tmp_path / "old")
    made, usual = old(**inputs(bundle)), Text2Speech(bundle)(**inputs(bundle))
    assert np.array_equal(made["feat_gen"], usual["feat_gen"])
    with pytest.raises(PluginError, match="^sids has to be one id 0 or above"):
        old(**{**inputs(bundle), "sids": -1})


def test_the_seed_decides(exported):
    files, bundle = exported("vits/one_speaker")

    def make(model):
        return model(TEXT)["wav"]

    one = Text2Speech(bundle, seed=5)
    first, second = make(one), make(one)
    assert not np.array_equal(first, second)
    again = Text2Speech(bundle, seed=5)
    assert np.array_equal(make(again), first) and np.array_equal(make(again), second)
    assert not np.array_equal(make(Text2Speech(bundle, seed=6)), first)
    options = dict(seed=5, always_fix_seed=True)
    fixed = Text2Speech(bundle, **options)
    assert np.array_equal(make(fixed), first) and np.array_equal(make(fixed), first)
    assert difference(first, make(espnet(files, **options)).numpy()) <= TOLERANCE


@pytest.fixture(scope="session")
def vocoder(tmp_path_factory):
    """Gives a generator of ESPnet, its bundle and the features' size."""

    @functools.cache
    def give(arch, name):
        tts_task()
        from espnet2.gan_tts import joint

        path, dim = tmp_path_factory.mktemp("vocoder"), 10
        classes = joint.joint_text2wav.AVAILABLE_VOCODER
        size = (
            "aux_channels" if arch.startswith(("parallel", "style")) else "in_channels"
        )
        torch.manual_seed(0)
        generator = classes[arch](**{size: dim, **find("vocoder", arch).tiny[name]})
        generator = generator.eval()
        randomize(torch.nn.ModuleList([generator]))
        pqmf = None
        if name == "four_bands":
            pqmf = joint.joint_text2wav.PQMF(subbands=4)
        part = find("vocoder", arch).wrap(generator, dim, pqmf=pqmf).eval()
        graphs = export_graphs({"vocoder": part.graph_spec()}, path)
        synthesis = Synthesis(RATE, part.factor, "feat_gen", context(part))
        search = Durations(rounding="round", block=part.block)
        manifest = Manifest("tts", graphs, None, NO_TEXT, search, synthesis)
        bundle = Bundle(path, manifest)
        seen = []
        device = Device(
            buckets=True, watch=lambda _, feeds: seen.append(len(feeds["feats"]))
        )
        few_lengths = Vocoder(bundle, device), seen
        return generator, pqmf, Vocoder(bundle, Device()), few_lengths

    return give


@pytest.mark.parametrize(
    "arch, name",
    [case for case in configurations("vocoder") if "symbol" not in case.values[0]],
)
def test_a_vocoder_is_espnets_also_in_pieces(arch, name, vocoder):
    generator, pqmf, ours, (few_lengths, seen) = vocoder(arch, name)
    feats = np.random.default_rng(4).standard_normal((73, 10)).astype(np.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        reference = generator.inference(torch.from_numpy(feats))
        if pqmf is not None:
            reference = pqmf.synthesis(reference.T[None])
    given = VocoderInputs(feats)
    whole = ours(given, Noise(0))
    assert difference(whole, reference.reshape(-1).numpy()) <= TOLERANCE
    for chunk in (1, 3, 50, 1000):
        pieces = list(ours.stream(given, Noise(0), chunk))
        assert difference(np.concatenate(pieces), whole) <= 1e-6
        one = arch == "style_melgan_generator"  # its statistics are of the utterance
        assert len(pieces) == (1 if one else math.ceil(len(feats) / chunk))
        # As on a GPU, where every run sees as many frames.
        seen.clear()
        again = list(few_lengths.stream(given, Noise(0), chunk))
        assert [len(piece) for piece in again] == [len(piece) for piece in pieces]
        assert difference(np.concatenate(again), whole) <= 1e-6
        assert len(seen) == len(pieces) and len(set(seen)) == 1


@pytest.mark.parametrize(
    "what, pieces",
    [
        ("vits/speakers_and_languages", None),
        ("jets/conformer", None),
        ("fastspeech2/transformer", 1),  # by Griffin and Lim
    ],
)
def test_a_model_streams_its_waveform(what, pieces, exported):
    bundle = exported(what)[1]
    whole = Text2Speech(bundle, always_fix_seed=True)(**inputs(bundle))["wav"]
    for chunk in (1, 3, 50):
        model = Text2Speech(bundle, always_fix_seed=True)
        streamed = list(model.stream(**inputs(bundle), chunk=chunk))
        assert difference(np.concatenate(streamed), whole) <= 1e-6
        assert len(streamed) == (pieces or math.ceil(len(whole) / 8 / chunk))
    with pytest.raises(PluginError, match="chunk 0"):
        next(model.stream(**inputs(bundle), chunk=0))


@pytest.mark.parametrize("name", ["fbank", "spectrogram", "linear_spectrogram"])
def test_features_of_speech_are_espnets(name, tmp_path):
    from espnet2.layers.global_mvn import GlobalMVN

    tts_task()
    from espnet2.tasks.tts import feats_extractor_choices

    arch = find("feats_extract", name)
    extract = feats_extractor_choices.get_class(name)(**arch.tiny["small"])
    dim, random = extract.output_size(), np.random.default_rng(0)
    stats = dict(count=10.0, sum=random.random(dim), sum_square=20 + random.random(dim))
    np.savez(tmp_path / "stats.npz", **stats)
    for normalize in (None, GlobalMVN(str(tmp_path / "stats.npz"))):
        part = arch.wrap(extract, normalize).eval()
        graphs = export_graphs({"frontend": part.graph_spec()}, tmp_path)
        manifest = Manifest("tts", graphs, None, NO_TEXT, NO_SEARCH)
        session = Session(Bundle(tmp_path, manifest), "frontend", Device())
        for samples in (part.shortest(), 777):
            speech = random.standard_normal(samples).astype(np.float32)
            feats = session.run({"speech": speech}, ["feats"])["feats"]
            reference = extract(torch.from_numpy(speech)[None])[0]
            if normalize is not None:
                reference = normalize(reference)[0]
            assert difference(feats, reference[0].numpy()) <= TOLERANCE


def write_texts(directory):
    """Two utterances: their texts, and languages."""
    directory.mkdir()
    (directory / "text").write_text("one abc\ntwo a lot of tokens\n")
    (directory / "utt2lid").write_text("one 1\ntwo 0\n")
    return [
        f"--data_path_and_name_and_type={directory}/text,text,text",
        f"--data_path_and_name_and_type={directory}/utt2lid,lids,text_int",
    ]


@pytest.mark.parametrize(
    "what", ["tacotron2/forward_ta", "vits/speakers_and_languages"]
)
def test_the_command_leaves_espnets_files(what, exported, tmp_path):
    pytest.importorskip("matplotlib")
    files, bundle = exported(what)
    cmd = write_texts(tmp_path / "data")
    (tmp_path / "data/utt2sid").write_text("one 2\ntwo 1\n")
    if "sids" in bundle.manifest.synthesis.reads:
        cmd.append(
            f"--data_path_and_name_and_type={tmp_path}/data/utt2sid,sids,text_int"
        )
    cmd += ["--seed", "3", "--always_fix_seed", "true", "--maxlenratio", "5"]
    tts_task()
    from espnet2.bin import tts_inference as theirs

    theirs.main(
        [
            *("--output_dir", str(tmp_path / "espnet"), *cmd),
            *("--train_config", str(files["config"])),
            *("--model_file", str(files["file"])),
        ]
    )
    tts_inference.main(
        ["--output_dir", str(tmp_path / "ours"), "--model_dir", str(bundle.path), *cmd]
    )

    def tree(name):
        root = tmp_path / name
        return {str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()}

    empty = {
        name
        for name in tree("espnet")
        if not (tmp_path / "espnet" / name).stat().st_size
    }
    assert tree("ours") - {"timing.jsonl", "records.jsonl"} == tree("espnet") - empty
    for name in tree("ours") - {"timing.jsonl", "records.jsonl"}:
        mine, other = tmp_path / "ours" / name, tmp_path / "espnet" / name
        if name.endswith(".npy"):
            assert difference(np.load(mine), np.load(other)) <= TOLERANCE
        elif name.endswith(".wav"):
            (wave, rate), (reference, expected) = map(soundfile.read, (mine, other))
            assert rate == expected and wave.shape == reference.shape
            if what.startswith("vits"):  # Griffin-Lim's first phases are chance
                assert np.abs(wave - reference).max() <= 1 / 2**15
        elif not name.endswith(".png"):
            there = other.read_text().replace(str(tmp_path / "espnet"), "DIR")
            assert mine.read_text().replace(str(tmp_path / "ours"), "DIR") == there


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def command(bundle, output_dir, data, *options):
    """Speak all of a directory's texts, by the command."""
    kinds = dict(text="text", sids="text_int", lids="text_int")
    names = ["text", *bundle.manifest.synthesis.reads]
    inputs = [f"--data_path_and_name_and_type={data / n},{n},{kinds[n]}" for n in names]
    files = ["--model_dir", str(bundle.path), "--output_dir", str(output_dir)]
    tts_inference.main([*files, *inputs, *options])


def waves(output_dir):
    return {f.stem: f.read_bytes() for f in (output_dir / "wav").glob("*.wav")}


def test_an_utterance_that_cannot_be_spoken_leaves_the_others_alone(
    exported, tmp_path, capsys, monkeypatch
):
    bundle = exported("vits/speakers_and_languages")[1]
    good = ["a", "b", "c"]
    texts = dict(a="abc", empty="", far="a b", b="a lot", odd="ab", broken="bcd")
    texts.update(lost="abc", c="a")
    write_lines(tmp_path / "text", [f"{key} {text}" for key, text in texts.items()])
    sids = dict.fromkeys(texts, "1") | dict(far="3", odd="1.5")
    del sids["lost"]
    write_lines(tmp_path / "sids", [f"{key} {sid}" for key, sid in sids.items()])
    write_lines(tmp_path / "lids", [f"{key} 0" for key in texts])
    write_lines(tmp_path / "keys", good)
    alone = ["--key_file", str(tmp_path / "keys")]
    command(bundle, tmp_path / "alone", tmp_path, *alone)
    assert not (tmp_path / "alone/failed").exists()

    usual, calls = Vocoder.__call__, []

    def fail(self, *args):  # after the noise of the features is drawn
        calls.append(args)
        if len(calls) == 3:
            raise PluginError("graph vocoder: no memory")
        return usual(self, *args)

    monkeypatch.setattr(Vocoder, "__call__", fail)
    with pytest.raises(SystemExit) as e:
        command(bundle, tmp_path / "all", tmp_path)
    assert e.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tts_inference: error: 5 of 8 utterances could not be synthesized: 'empty' "
        "(the text has no token; give one that has), 'far' (sids has to be one id from "
        "0 to 2, not '3'), 'odd' ('1.5' is not integers), 'broken' (graph vocoder: no "
        "memory), 'lost' (there is no sids); "
        f"the results of the others are in {tmp_path}/all.incomplete"
    )
    assert not (tmp_path / "all").exists()
    incomplete = tmp_path / "all.incomplete"
    assert (incomplete / "failed").read_text().splitlines() == [
        "empty the text has no token; give one that has",
        "far sids has to be one id from 0 to 2, not '3'",
        "odd '1.5' is not integers",
        "broken graph vocoder: no memory",
        "lost there is no sids",
    ]
    spoken = waves(incomplete)
    assert sorted(spoken) == good
    assert spoken == waves(tmp_path / "alone")
    timings = (incomplete / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in timings] == good
    command(bundle, tmp_path / "all", tmp_path, *alone)
    assert waves(tmp_path / "all") == spoken and not incomplete.exists()
    assert not (tmp_path / "all/failed").exists()


@pytest.mark.parametrize("key", ["a/b", "../../x", "{root}/x"])
def test_an_id_that_is_a_path_is_refused_before_anything_is_spoken(
    key, exported, tmp_path, capsys
):
    bundle = exported("fastspeech/transformer")[1]
    key = key.format(root=tmp_path)
    output_dir = tmp_path / "out/1"
    write_lines(tmp_path / "text", ["one abc"])
    command(bundle, output_dir, tmp_path)
    before = waves(output_dir)
    write_lines(tmp_path / "text", ["two abc", f"{key} abc"])
    (tmp_path / "x.wav").write_text("precious")
    with pytest.raises(SystemExit) as e:
        command(bundle, output_dir, tmp_path)
    assert e.value.code == 1
    assert f"utterance id '{key}' cannot be the name" in capsys.readouterr().err
    assert (tmp_path / "x.wav").read_text() == "precious"
    assert waves(output_dir) == before
    assert len(list(tmp_path.rglob("*.wav"))) == 2


def test_a_batch_has_the_speech_of_each_text_alone(exported, tmp_path, capsys):
    bundle = exported("vits/one_speaker")[1]
    write_lines(tmp_path / "text", ["one abc", "two a lot", "three a"])
    for size in ("1", "2"):
        command(bundle, tmp_path / size, tmp_path, "--batch_size", size)
    assert waves(tmp_path / "1") == waves(tmp_path / "2") != {}
    with pytest.raises(SystemExit):
        command(bundle, tmp_path / "0", tmp_path, "--batch_size", "0")
    assert "--batch_size: '0' must be 1 or more" in capsys.readouterr().err


def test_a_missing_package_of_the_text_is_named_once(
    exported, tmp_path, capsys, monkeypatch
):
    bundle = exported("fastspeech/transformer")[1]
    shutil.copytree(bundle.path, tmp_path / "onnx")
    manifest = tmp_path / "onnx/manifest.yaml"
    content = manifest.read_text()
    manifest.write_text(content.replace("  cleaner: []", "  cleaner: [jaconv]"))
    assert manifest.read_text() != content
    monkeypatch.setitem(sys.modules, "jaconv", None)
    write_lines(tmp_path / "text", ["one abc", "two a lot"])
    with pytest.raises(SystemExit):
        command(read_bundle(tmp_path / "onnx"), tmp_path / "out", tmp_path)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("tts_inference: error: cleaner 'jaconv'")
    assert error.endswith("pip install jaconv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("frames", [1, 2, 40])
@pytest.mark.parametrize(
    "settings",
    [
        dict(fs=RATE, n_mels=10, fmin=80, fmax=3800),
        dict(fs=RATE, n_mels=10, fmax=4000, win_length=50, griffin_lim_iters=3),
        dict(fs=RATE),
    ],
    ids=["mel", "short_window", "linear"],
)
def test_griffin_lim_is_espnets(settings, frames):
    from espnet2.utils.griffin_lim import Spectrogram2Waveform

    theirs = Spectrogram2Waveform(n_fft=64, n_shift=16, **settings)
    dim = settings.get("n_mels", 33)
    feats = np.random.default_rng(0).standard_normal((frames, dim)).astype(np.float32)
    draw = functools.partial(librosa.griffinlim, random_state=7)
    with mock.patch.object(librosa, "griffinlim", draw):
        reference = theirs(torch.from_numpy(feats)).numpy()
    assert difference(GriffinLim(theirs.params)(feats, 7), reference) <= TOLERANCE


PARALLEL_WAVEGAN = {
    "hifigan": dict(
        generator_type="HiFiGANGenerator",
        generator_params=dict(
            in_channels=10,
            out_channels=1,
            channels=8,
            upsample_scales=[4, 2],
            upsample_kernel_sizes=[8, 4],
            resblock_kernel_sizes=[3],
            resblock_dilations=[[1, 3]],
        ),
    ),
    "parallel_wavegan": dict(
        generator_params=dict(
            aux_channels=10,
            out_channels=1,
            layers=4,
            stacks=2,
            residual_channels=4,
            gate_channels=8,
            skip_channels=4,
            aux_context_window=2,
            upsample_params=dict(upsample_scales=[4, 2]),
        ),
    ),
    "melgan": dict(
        generator_type="MelGANGenerator",
        generator_params=dict(
            in_channels=10,
            out_channels=1,
            kernel_size=3,
            channels=16,
            stacks=2,
            upsample_scales=[4, 2],
        ),
    ),
    "multi_band_melgan": dict(
        generator_type="MelGANGenerator",
        generator_params=dict(
            in_channels=10,
            out_channels=4,
            kernel_size=3,
            channels=16,
            stacks=2,
            upsample_scales=[2],
        ),
    ),
    "style_melgan": dict(
        generator_type="StyleMelGANGenerator",
        generator_params=dict(
            in_channels=6,
            aux_channels=10,
            out_channels=1,
            channels=4,
            kernel_size=3,
            noise_upsample_scales=[3, 2],
            upsample_scales=[4, 2],
        ),
    ),
}


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", PARALLEL_WAVEGAN)
def test_a_vocoder_of_parallel_wavegan(name, normalized, exported, tmp_path):
    reason = "pip install --no-build-isolation parallel_wavegan, after pytest-runner"
    models = pytest.importorskip(
        "parallel_wavegan.models", reason=reason, exc_type=ImportError
    )
    files = exported("fastspeech/transformer")[0]
    config = dict(PARALLEL_WAVEGAN[name], sampling_rate=16000, format="hdf5")
    kind = config.get("generator_type", "ParallelWaveGANGenerator")
    generator = getattr(models, kind)(**config["generator_params"])
    randomize(torch.nn.ModuleList([generator]))
    weights = dict(model=dict(generator=generator.state_dict()))
    vocoder_file = tmp_path / "x.pkl"
    torch.save(weights, vocoder_file)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    random = np.random.default_rng(0)
    if normalized:
        import h5py

        with h5py.File(tmp_path / "stats.h5", "w") as stats:
            stats["mean"] = random.standard_normal(10).astype(np.float32)
            stats["scale"] = (0.5 + random.random(10)).astype(np.float32)
    export.main(
        [
            *("--task", "tts", "--output_dir", str(tmp_path / "onnx")),
            *("--train_config", str(files["config"])),
            *("--model_file", str(files["file"])),
            *("--vocoder_file", str(vocoder_file)),
        ]
    )
    ours = Text2Speech(tmp_path / "onnx")
    theirs = espnet(files, vocoder_file=str(vocoder_file))
    assert ours.fs == theirs.fs == 16000
    assert theirs.vocoder.normalize_before == normalized
    made, reference = speak(ours, theirs, dict(text=TEXT))
    agree(made, reference)
    assert len(made["wav"]) == 8 * len(made["feat_gen"])
    ours.noise = Noise(0)
    pieces = list(ours.stream(TEXT, chunk=7))
    assert difference(np.concatenate(pieces), made["wav"]) <= 1e-6


def write_ids(root, lengths=(150, 190)):
    random = np.random.default_rng(4)
    lines = [
        f"text{n} {' '.join(map(str, random.integers(2, 25, length)))}\n"
        for n, length in enumerate(lengths)
    ]
    (root / "text").write_text("".join(lines), encoding="utf-8")
    return f"--data_path_and_name_and_type={root / 'text'},text,text_int"


def test_a_voice_is_optimized_and_quantized_within_a_budget(
    exported, tmp_path, capsys, monkeypatch
):
    # Whether it is says a machine.
    monkeypatch.setattr(lowering, "is_faster", lambda *_: True)
    _, bundle = exported("joint_text2wav/fastspeech2_hifigan")
    texts = write_ids(tmp_path)
    files = ["--model_dir", str(bundle.path), "--output_dir"]
    optimize.main([*files, str(tmp_path / "optimized"), texts])
    assert "same speech on 2 of 2 utterances (real input)" in capsys.readouterr().out
    quantize.main([*files, str(tmp_path / "int8"), texts, "--max_mcd", "30"])
    figures = read_bundle(tmp_path / "int8").manifest.checks["quantize"]
    assert 0 < figures["mcd"] < 30
    assert not figures["kept"]
    # Nothing that is quantized is exact: all of it is taken back.
    strict = ["--max_mcd", "0", "--max_log_f0_rmse", "0"]
    quantize.main([*files, str(tmp_path / "strict"), texts, *strict])
    figures = read_bundle(tmp_path / "strict").manifest.checks["quantize"]
    assert figures["mcd"] == 0 and figures["kept"]["fp32"]
    monkeypatch.setattr(lowering, "is_faster", lambda *_: False)
    quantize.main([*files, str(tmp_path / "slow"), texts, *strict])
    figures = read_bundle(tmp_path / "slow").manifest.checks["quantize"]
    assert figures["mcd"] == 0 and not figures["kept"]


def test_other_speech_is_refused(exported, tmp_path, capsys, monkeypatch):
    _, bundle = exported("joint_text2wav/fastspeech2_hifigan")
    monkeypatch.setattr(fuse, "optimize_graph", spoil)
    command = ["--model_dir", str(bundle.path), "--output_dir", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as e:
        optimize.main([*command, write_ids(tmp_path)])
    assert e.value.code == 1
    assert "differs from the original" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def spoil(source, target, provider, device):
    """Write a graph whose first large weight is another one."""
    model = load_graph(source)
    weights = [w for w in model.graph.initializers.values() if len(w.shape) == 3]
    for weight in weights[:1]:
        weight.const_value = ir.tensor(weight.const_value.numpy() + 0.1)
    save_graph(model, target)
    return {}


@pytest.mark.parametrize(
    "command, options, message",
    [
        (
            optimize,
            ["--calibration_scp", "x,sound"],
            "a model of task tts makes waveforms",
        ),
        (
            quantize,
            ["--calibration_transcript", "x"],
            "a model of task tts makes waveforms: give its inputs as "
            "--data_path_and_name_and_type in the place of --calibration_scp and "
            "--calibration_transcript",
        ),
        (quantize, ["--calibration_text", "x"], "not for a model that makes waveforms"),
        (
            optimize,
            ["--data_path_and_name_and_type", "x,audio,sound"],
            "names and their types",
        ),
    ],
)
def test_what_is_not_for_speech_is_refused(
    command, options, message, exported, tmp_path, capsys
):
    _, bundle = exported("joint_text2wav/fastspeech2_hifigan")
    files = ["--model_dir", str(bundle.path), "--output_dir", str(tmp_path / "new")]
    with pytest.raises(SystemExit):
        command.main([*files, *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [optimize, quantize])
def test_what_a_check_needs_and_is_not_given_is_named(
    command, exported, tmp_path, capsys
):
    _, bundle = exported("fastspeech/conformer")
    files = ["--model_dir", str(bundle.path), "--output_dir", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as e:
        command.main([*files, write_ids(tmp_path)])
    assert e.value.code == 1
    line = "error: utterance 'text0': Missing required argument: 'spembs'\n"
    assert capsys.readouterr().err.endswith(line)
    assert not (tmp_path / "new").exists()


def test_the_readmes_example(tmp_path):
    vits = find("tts", "vits").tiny["speakers_and_languages"]
    params = {k: v for k, v in vits["generator_params"].items() if k != "langs"}
    conf = {**vits, "generator_params": params}
    files = save_tts("vits", "speakers_and_languages", tmp_path, tts_conf=conf)
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("tts", checkpoints, tmp_path / "onnx")
    pieces = []
    got = run_readme(
        "Text2Speech",
        {"BUNDLE": bundle.path},
        play=lambda piece, rate: pieces.append((piece, rate)),
    )
    assert {rate for _, rate in pieces} == {got["text2speech"].fs}
    played = np.concatenate([piece for piece, _ in pieces])
    np.testing.assert_allclose(played, got["made"]["wav"], atol=1e-6)
