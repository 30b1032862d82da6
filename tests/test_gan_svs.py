"""Singing by models that make the waveform themselves, against ESPnet's inference."""

import copy
import dataclasses
import math
import sys
import types

import numpy as np
import pytest
import test_svs
import torch
import yaml
from conftest import NO_TEXT, RATE, a_few, configurations, save_svs
from espnet2.gan_tts.hifigan import HiFiGANGenerator
from espnet2.gan_tts.hifigan.residual_block import ResidualBlock
from sweeping.build import randomize
from test_svs import (
    FORCED,
    agree,
    agree_on_files,
    espnet,
    inputs,
    sing,
    singing,
    song,
    write_songs,
)

from espnet_onnx_plugin.bin import optimize, svs_inference
from espnet_onnx_plugin.bundle import Bundle, Excitation, Manifest, Synthesis
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.graph import export_graphs
from espnet_onnx_plugin.export.layers.vocoder import context, find_vocoder
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE
from espnet_onnx_plugin.export.patches import first_inputs
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.svs import SingingGenerate
from espnet_onnx_plugin.runtime.synthesis.excitation import excite
from espnet_onnx_plugin.runtime.synthesis.songs import made_up_song
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
from espnet_onnx_plugin.runtime.synthesis.vocoder import Vocoder, VocoderInputs


class HiFiGANResidualBlock(ResidualBlock):
    """parallel_wavegan's, which ESPnet's UHiFiGAN imports, without causal layers."""

    def __init__(self, use_causal_conv=False, **settings):
        assert not use_causal_conv
        super().__init__(**settings)


@pytest.fixture
def parallel_wavegan(monkeypatch):
    """Lets ESPnet build UHiFiGAN where parallel_wavegan is missing."""
    from espnet2.gan_svs.uhifigan import uhifigan

    layers = types.ModuleType("parallel_wavegan.layers")
    monkeypatch.setitem(sys.modules, layers.__name__, layers)
    monkeypatch.setattr(uhifigan, "CausalConv1d", torch.nn.Conv1d)
    monkeypatch.setattr(uhifigan, "CausalConvTranspose1d", torch.nn.ConvTranspose1d)
    monkeypatch.setattr(uhifigan, "ResidualBlock", HiFiGANResidualBlock)


def test_the_residual_block_is_parallel_wavegans(monkeypatch):
    import scipy.signal
    from scipy.signal import windows

    # Of before scipy 1.13
    monkeypatch.setattr(scipy.signal, "kaiser", windows.kaiser, raising=False)
    reason = "pip install --no-build-isolation parallel_wavegan, after pytest-runner"
    layers = pytest.importorskip(
        "parallel_wavegan.layers", reason=reason, exc_type=ImportError
    )
    settings = dict(kernel_size=5, channels=4, dilations=(1, 3))
    theirs = layers.HiFiGANResidualBlock(use_causal_conv=False, **settings)
    ours = HiFiGANResidualBlock(use_causal_conv=False, **settings)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 4, 20)
    assert torch.equal(ours(x), theirs(x))


def pitch(frames):
    """A melody in Hz (frames,), with rests."""
    random = np.random.default_rng(frames)
    f0 = 440 * 2 ** (random.integers(-12, 13, frames) / 12)
    f0[random.random(frames) < 0.2] = 0
    return f0.astype(np.float32)


#: Sampling rate, samples of a frame, and frames: some, and three minutes.
SONGS = [
    (8000, 8, 37),
    (24000, 300, 14400),
    pytest.param(44100, 512, 15504, marks=pytest.mark.more),
]


@pytest.mark.parametrize("rate, shift, frames", SONGS)
def test_the_phase_is_espnets_after_minutes(rate, shift, frames):
    from espnet2.gan_svs.visinger2.ddsp import upsample

    f0 = pitch(frames)
    of_samples = upsample(torch.from_numpy(f0)[None, :, None], shift)
    reference = torch.sin(torch.cumsum(2 * math.pi * of_samples / rate, 1))
    settings = Excitation(kind="sines", sampling_rate=rate)
    made = excite(f0, settings, shift, Noise(0))
    assert made.shape == (frames, shift)
    assert np.abs(made.reshape(-1) - reference.reshape(-1).numpy()).max() < 1e-6


@pytest.mark.parametrize("method", ["repeat", "interpolation"])
@pytest.mark.parametrize("rate, shift, frames", SONGS)
def test_sines_and_noise_are_espnets(rate, shift, frames, method):
    from espnet2.gan_svs.uhifigan.sine_generator import SineGen
    from espnet2.gan_svs.utils.expand_f0 import expand_f0

    f0, sines, seed = pitch(frames), SineGen(rate), 777
    settings = Excitation(
        kind="source_filter",
        sampling_rate=rate,
        interpolated=method == "interpolation",
        sine_amp=sines.sine_amp,
        noise_std=sines.noise_std,
        voiced_threshold=sines.voiced_threshold,
    )
    torch.manual_seed(seed)
    noise = Noise(seed)
    of_samples = expand_f0(torch.from_numpy(f0)[None, None], shift, method=method)
    reference, _, _ = sines(of_samples.reshape(1, -1, 1))
    made = excite(f0, settings, shift, noise)
    assert np.abs(made.reshape(-1) - reference.reshape(-1).numpy()).max() < 1e-5
    # ESPnet's generator and ours go on from one place.
    assert np.abs(noise.normal(20) - torch.randn(20).numpy()).max() < 1e-6


def test_draws_to_no_effect_are_drawn():
    torch.manual_seed(5)
    torch.rand(1, 33, 7, 1)  # the phases of VISinger 2's noise
    noise = Noise(5)
    settings = Excitation(kind="sines", sampling_rate=8000, unused_draws=33)
    excite(pitch(7), settings, 8, noise)
    assert np.abs(noise.normal(20) - torch.randn(20).numpy()).max() < 1e-6


VITS = [case for case in configurations("svs") if case.values[0] == "vits"]


#: A fixture.
exported = test_svs.exported


@pytest.fixture
def vits(exported, request):
    """Gives a tiny VISinger of ESPnet and its bundle."""

    def give(name):
        if name.startswith("uhifigan"):
            request.getfixturevalue("parallel_wavegan")
        return exported(f"vits/{name}")

    return give


def of_text(given):
    """The song without its label."""
    label = given["text"]["label"]
    text = {"score": given["text"]["score"], "text": list(label.phones)}
    return {**given, "text": text}


@pytest.mark.espnet
@pytest.mark.parametrize("arch, name", VITS)
def test_a_model_sings_as_in_espnet(arch, name, vits):
    files, bundle = vits(name)
    parity = bundle.manifest.checks["parity"]
    assert all(0 <= figure <= TOLERANCE for figure in parity.values())
    ours, theirs = SingingGenerate(bundle), espnet(files)
    assert ours.fs == theirs.fs == RATE
    for seed, notes in enumerate((4, 11)):
        given = inputs(bundle, text=song(notes, seed=notes))
        # After each other without a new seed: as many numbers are drawn.
        for song_ in (given, of_text(given)):
            made, reference = sing(ours, theirs, song_, seed)
            agree(made, reference)
            assert set(made) == {"wav", "duration", "focus_rate"}
            last = torch.randn(20).numpy()
            assert np.abs(ours.noise.normal(20) - last).max() < 1e-6


@pytest.mark.espnet
@pytest.mark.parametrize("arch, name", VITS)
def test_teacher_forcing_is_espnets(arch, name, vits):
    files, bundle = vits(name)
    ours, theirs = SingingGenerate(bundle, **FORCED), espnet(files, **FORCED)
    for samples in (900, 1500):
        given = inputs(bundle, singing=singing(samples))
        made, reference = sing(ours, theirs, given, seed=samples)
        agree(made, reference)
        assert len(made["wav"]) == 8 * (samples // 8 + 1)


JOINT = [case for case in configurations("svs") if "joint" in case.values[0]]


@pytest.mark.espnet
@pytest.mark.parametrize("arch, name", JOINT)
def test_a_model_and_its_vocoder_sing_as_in_espnet(arch, name, exported):
    files, bundle = exported(f"{arch}/{name}")
    ours, theirs = SingingGenerate(bundle), espnet(files)
    assert ours.fs == theirs.fs
    for seed, notes in enumerate((4, 11)):
        given = inputs(bundle, text=song(notes, seed=notes))
        made, reference = sing(ours, theirs, given, seed)
        reference["wav"] = reference["wav"].reshape(-1)  # it has an axis more
        agree(made, reference)
        assert len(made["wav"]) == 8 * len(made["feat_gen"])
    with pytest.raises(PluginError, match="give label too"):
        ours(**of_text(given))


@pytest.mark.espnet
def test_options_have_espnets_effect(vits):
    files, bundle = vits("visinger2")
    made = {}
    for options in ({}, dict(noise_scale=5.0), dict(noise_scale_dur=3.0)):
        ours, theirs = SingingGenerate(bundle, **options), espnet(files, **options)
        for given in (inputs(bundle), of_text(inputs(bundle))):
            found, reference = sing(ours, theirs, given)
            agree(found, reference)
            made.setdefault(tuple(options), []).append(found["wav"])
    for usual, other in zip(made[()], made["noise_scale",]):
        assert difference(other, usual) > 1e-2
    for usual, other in zip(made[()], made["noise_scale_dur",]):
        assert np.array_equal(usual, other)


@pytest.mark.parametrize("arch, name", VITS)
def test_a_song_streams(arch, name, vits):
    _, bundle = vits(name)
    whole = SingingGenerate(bundle, always_fix_seed=True)(**inputs(bundle))["wav"]
    for chunk in (1, 7, 50):
        model = SingingGenerate(bundle, always_fix_seed=True)
        pieces = list(model.stream(**inputs(bundle), chunk=chunk))
        assert len(pieces) == math.ceil(len(whole) / 8 / chunk)
        assert difference(np.concatenate(pieces), whole) <= 1e-6


def test_labels_are_sung_from_a_release_on(vits):
    _, bundle = vits("visinger2")
    given = inputs(bundle)
    frames = {}
    for release in ("202511", "202611"):
        source = {**bundle.manifest.source, "espnet": release}
        manifest = dataclasses.replace(bundle.manifest, source=source)
        model = SingingGenerate(dataclasses.replace(bundle, manifest=manifest))
        for what, asked in (("label", given), ("text", of_text(given))):
            frames[release, what] = len(model(**asked)["wav"]) // 8
    label = given["text"]["label"]
    lengths = np.diff(label.times)[:, 0] * RATE / 8
    assert frames["202611", "label"] == (lengths + 0.5).astype(int).sum()
    predicted = frames["202611", "text"]
    assert predicted == frames["202511", "text"] == frames["202511", "label"]
    assert predicted != frames["202611", "label"]


@pytest.mark.espnet
def test_the_command_sings_as_espnets(vits, tmp_path):
    files, bundle = vits("visinger2")
    options = write_songs(tmp_path / "data")
    options += ["--seed", "3", "--num_workers", "0", "--ngpu", "0"]
    options += ["--vocoder_checkpoint", "none", "--svs_task", "gan_svs"]
    espnet(files)  # imports it without a network
    from espnet2.bin import svs_inference as theirs

    theirs.main(
        [
            *("--output_dir", str(tmp_path / "espnet"), *options),
            *("--train_config", str(files["config"])),
            *("--model_file", str(files["file"])),
        ]
    )
    ours = ["--output_dir", str(tmp_path / "ours"), "--model_dir", str(bundle.path)]
    svs_inference.main([*ours, *options])
    assert {"wav/song0.wav", "wav/song1.wav"} <= agree_on_files(tmp_path, "vits")


def test_a_model_is_optimized(vits, tmp_path, capsys):
    _, bundle = vits("visinger2")
    optimize.main(
        ["--model_dir", str(bundle.path), "--output_dir", str(tmp_path / "optimized")]
    )
    assert "same speech on 3 of 3 utterances" in capsys.readouterr().out


LONG = dict(fs=24000, n_fft=2048, hop_length=600)


@pytest.mark.more
@pytest.mark.espnet
@pytest.mark.parametrize("name", ["visinger2", "uhifigan"])
def test_three_minutes_are_espnets(name, tmp_path, request):
    conf = copy.deepcopy(find("svs", "vits").tiny[name])
    conf["sampling_rate"] = LONG["fs"]
    conf["mel_loss_params"].update(LONG, win_length=2048)
    conf["generator_params"].update(
        text_encoder_attention_heads=1,
        decoder_upsample_scales=[30, 20],
        decoder_upsample_kernel_sizes=[60, 40],
    )
    if name == "uhifigan":
        conf["generator_params"].update(
            decoder_downsample_scales=[20, 30],
            decoder_downsample_kernel_sizes=[40, 60],
        )
    if name == "uhifigan":
        request.getfixturevalue("parallel_wavegan")
    files = save_svs(
        "vits",
        name,
        tmp_path,
        svs_conf=conf,
        fs=LONG["fs"],
        feats_extract_conf=dict(LONG, n_mels=10),
        score_feats_extract_conf=dict(LONG, win_length=2048),
        pitch_extract=None,
    )
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("svs", checkpoints, tmp_path / "onnx")
    ours, theirs = SingingGenerate(bundle), espnet(files)
    random, count = np.random.default_rng(0), 360
    lengths = np.full(count, 20 * LONG["hop_length"] / LONG["fs"])
    given = inputs(bundle, text=made_up_song([*"abcdef"], lengths, 70, random))
    with first_inputs(getattr(theirs.svs.generator, "dec_harm", None)) as seen:
        made, reference = sing(ours, theirs, given)
    assert len(made["wav"]) > 175 * LONG["fs"]
    if seen:  # whose last digits are heard after minutes
        ours.given_f0 = seen[0].reshape(-1).numpy()
        assert difference(ours.f0, ours.given_f0) <= TOLERANCE
        assert difference(made["wav"], reference["wav"].numpy()) < 0.2
        ours.noise = Noise(0)
        made = ours(**given)
    agree(made, reference)


@pytest.mark.parametrize(
    "choices",
    [dict(pitch_extract=None), dict(energy_extract="energy")],
    ids=lambda choices: next(iter(choices)),
)
def test_teacher_forcing_that_espnet_cannot_do_is_refused(choices, tmp_path):
    frames = dict(fs=RATE, n_fft=64, hop_length=8, use_token_averaged_energy=False)
    files = save_svs(
        "vits", "visinger", tmp_path, energy_extract_conf=frames, **choices
    )
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("svs", checkpoints, tmp_path / "onnx")
    assert set(bundle.manifest.graphs) == {"encoder", "decoder", "vocoder"}
    with pytest.raises(PluginError, match="use_teacher_forcing: .* cannot be taught"):
        SingingGenerate(bundle, **FORCED)
    theirs = espnet(files, **FORCED)
    with pytest.raises((AssertionError, TypeError)):
        sing(theirs, theirs, inputs(bundle, singing=singing()))


def test_features_of_a_postfrontend_are_not_handed_on():
    arch = find("svs", "vits")
    svs = build_vits(arch.tiny["visinger"], hubert_channels=3)
    wrapped = arch.wrap(svs, None)
    assert not wrapped.search.teacher_forcing and "posterior" not in wrapped.modules


def build_vits(conf, **params):
    from espnet2.gan_svs.vits import VITS

    conf = copy.deepcopy(conf)
    conf["generator_params"].update(params)
    return VITS(idim=20, odim=10, **conf).eval()


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(generator_type="vits_generator"), "no generator_type 'vits_generator'"),
        (
            dict(mel_loss_params=dict(hop_length=16)),
            "8 samples of a frame, .* hop_length of 16",
        ),
    ],
)
def test_what_espnet_cannot_sing_is_refused(change, reason):
    arch = find("svs", "vits")
    conf = {**copy.deepcopy(arch.tiny["visinger2"]), **change}
    with pytest.raises(PluginError, match=reason):
        arch.check(conf)


@pytest.mark.espnet
def test_espnet_cannot_build_what_is_refused(tmp_path, exported):
    files, _ = exported("vits/visinger2")
    config = yaml.safe_load(files["config"].read_text())
    config["svs_conf"]["generator_type"] = "vits_generator"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoints = Checkpoints(tmp_path / "config.yaml", files["file"])
    with pytest.raises(PluginError, match="^svs 'vits': ESPnet has no generator_type"):
        export_bundle("svs", checkpoints, tmp_path / "onnx")
    with pytest.raises(KeyError, match="vits_generator"):
        espnet(dict(files, config=tmp_path / "config.yaml"))


def test_the_vocoder_of_several_waveforms_is_refused(parallel_wavegan):
    arch = find("svs", "vits")
    conf = arch.tiny["uhifigan"]
    arch.check(conf)
    params = dict(conf["generator_params"], use_avocodo=True)
    with pytest.raises(PluginError, match="makes several waveforms"):
        arch.check({**conf, "generator_params": params})


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "parallel_wavegan.layers", None)
    arch = find("svs", "vits")
    with pytest.raises(PluginError, match="pip install parallel_wavegan"):
        arch.check(arch.tiny["uhifigan"])


class DiscreteSymbolF0Generator(torch.nn.Module):
    """parallel_wavegan's of that name, which its releases do not have, in short."""

    use_embedding_feats = False

    def __init__(
        self,
        in_channels,
        linear_channel,
        num_embs,
        num_spk_embs,
        use_f0=True,
        use_weight_sum=False,
        layer_num=12,
        **settings,
    ):
        super().__init__()
        self.num_spk_embs, self.use_f0 = num_spk_embs, use_f0
        self.use_weight_sum, self.layer_num = use_weight_sum, layer_num
        self.emb = torch.nn.Embedding(num_embs, in_channels)
        if use_weight_sum:
            embeddings = [torch.nn.Embedding(num_embs, in_channels) for _ in "abc"]
            self.emb = torch.nn.ModuleList(embeddings)
            self.weights = torch.nn.Parameter(torch.randn(layer_num))
        self.f0_embedding = torch.nn.Linear(1, linear_channel)
        size = in_channels + linear_channel * use_f0
        self.hifigan = HiFiGANGenerator(size, **settings)

    @property
    def upsamples(self):
        return self.hifigan.upsamples

    def forward(self, c, f0=None):
        if self.use_weight_sum:
            embedded = [emb(ids) for emb, ids in zip(self.emb, c.unbind(dim=1))]
            c = torch.stack(embedded, dim=-1) @ self.weights.softmax(dim=0)
        else:
            c = self.emb(c[:, 0])
        if f0 is not None and self.use_f0:
            c = torch.cat((c, self.f0_embedding(f0.transpose(1, 2))), dim=2)
        return self.hifigan(c.transpose(1, 2))

    def inference(self, c, f0=None, normalize_before=False):
        assert not normalize_before
        f0 = None if f0 is None else f0[None, None]
        return self(c.T[None], f0)[0].T


@pytest.mark.parametrize(
    "name", a_few(find("vocoder", "discrete_symbol_f0_generator").tiny, keep=2)
)
def test_a_vocoder_reads_tokens_and_pitch(name, tmp_path):
    torch.manual_seed(0)
    conf = find("vocoder", "discrete_symbol_f0_generator").tiny[name]
    generator = DiscreteSymbolF0Generator(**conf).eval()
    randomize(torch.nn.ModuleList([generator]))
    part = find_vocoder(generator)(generator, 1).eval()
    graphs = export_graphs({"vocoder": part.graph_spec()}, tmp_path)
    synthesis = Synthesis(8000, part.factor, "feat_gen", context(part))
    search = Durations(rounding="round")
    manifest = Manifest("svs", graphs, None, NO_TEXT, search, synthesis)
    ours = Vocoder(Bundle(tmp_path, manifest), Device())
    layers = 3 if name == "layers" else 1
    for frames in (37, 90):
        tokens = np.random.default_rng(frames).integers(0, 12, (frames, layers))
        f0 = pitch(frames) / 440
        with torch.no_grad():
            reference = generator.inference(
                torch.from_numpy(tokens), torch.from_numpy(f0), normalize_before=False
            )
        given = VocoderInputs(tokens, f0=f0)
        assert difference(ours(given, Noise(0)), reference[:, 0].numpy()) <= TOLERANCE
        pieces = list(ours.stream(given, Noise(0), 7))
        assert len(pieces) == math.ceil(frames / 7)
        whole = np.concatenate(pieces)
        assert difference(whole, reference[:, 0].numpy()) <= TOLERANCE


@pytest.mark.parametrize("change", [dict(num_spk_embs=2), dict(use_embedding_feats=1)])
def test_a_vocoder_that_espnet_gives_too_little_is_refused(change):
    arch = find("vocoder", "discrete_symbol_f0_generator")
    generator = DiscreteSymbolF0Generator(**arch.tiny["tokens"])
    for name, value in change.items():
        setattr(generator, name, value)
    with pytest.raises(PluginError, match=f"{next(iter(change))}.* is not supported"):
        arch.wrap(generator, 1)
