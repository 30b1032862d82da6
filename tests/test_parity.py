"""Every registered architecture: its graphs against ESPnet's own modules."""

from argparse import Namespace

import numpy as np
import pytest
from conftest import TOKENS, asr_config, build_asr, build_lm

from espnet_onnx_plugin.bundle import Bundle, Manifest, Text
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import parity
from espnet_onnx_plugin.export.asr import describe_speech, export_audio, wrap_frontend
from espnet_onnx_plugin.export.encoder import PARTS, EncoderGraph
from espnet_onnx_plugin.export.graph import export_memory, export_step
from espnet_onnx_plugin.export.registry import Arch, all_archs, find, register
from espnet_onnx_plugin.runtime.encoder import Encoder
from espnet_onnx_plugin.runtime.session import Device, Session

ARCHS = {(arch.role, arch.name): arch for arch in all_archs()}
DIM = 8

#: Where an utterance changes with the batch around it, in ESPnet too: legacy relative
#: positions count from the batch's end, a convolution that makes positions and the
#: variance see the padding.
MIXES_BATCHES = {
    ("branchformer", "legacy"),
    ("e_branchformer", "legacy"),
    ("conformer", "legacy"),
    ("conformer", "legacy_zero_triu"),
    ("conformer", "convolutional"),
    ("utterance_mvn", "means_and_variances"),
}


def cases(*roles):
    return [
        pytest.param(arch, name, id=f"{arch.role}-{arch.name}-{name}")
        for arch in ARCHS.values()
        if arch.role in roles
        for name in arch.tiny
    ]


def as_bundle(path, graphs, speech=None):
    return Bundle(path, Manifest("asr", graphs, speech, Text(None, ""), {}))


def choose(arch, name, tmp_path):
    """A training configuration that has this architecture in it."""
    conf = dict(arch.tiny[name])
    if arch.name == "longformer":
        pytest.importorskip("longformer", reason="see tools/installers of ESPnet")
    if arch.name == "global_mvn":
        random = np.random.default_rng(0)
        features = random.standard_normal((50, 20)) * 3 - 8
        conf["stats_file"] = str(tmp_path / "stats.npz")
        np.savez(
            conf["stats_file"],
            count=len(features),
            sum=features.sum(0),
            sum_square=(features**2).sum(0),
        )
    choices = {arch.role: arch.name, f"{arch.role}_conf": conf}
    if arch.name == "sinc":
        choices.update(frontend="sliding_window", frontend_conf=dict(hop_length=160))
    if arch.name == "sliding_window":
        choices.update(preencoder="sinc", preencoder_conf=dict(out_channels=128))
    if conf.get("input_layer", "conv2d") is None and arch.role == "encoder":
        conf["output_size"] = 20  # without an input layer the features pass as they are
    return asr_config(**choices)


def exported(model, config, path):
    """The graphs from audio to encoder output, and what the audio has to be."""
    args = Namespace(**{**config, "use_preprocessor": False})
    frontend = wrap_frontend(model, args)
    graph = EncoderGraph(model, {r: config[r] for r in PARTS}).eval()
    speech = describe_speech(model, frontend, args)
    graphs = export_audio(frontend, graph, speech, path)
    return Encoder(as_bundle(path, graphs), Device()), speech


@pytest.mark.parametrize(
    "arch, name", cases("frontend", "normalize", "preencoder", "encoder", "postencoder")
)
def test_encoder_graph(arch, name, tmp_path):
    config = choose(arch, name, tmp_path)
    model = build_asr(config)
    encoder, speech = exported(model, config, tmp_path)
    worst = parity.check_encoder(model, encoder, parity.noise(speech))
    assert 0 < worst <= parity.TOLERANCE
    mixes = (arch.name, name) in MIXES_BATCHES
    assert parity.encodes_batches(encoder, speech) != mixes


@pytest.mark.parametrize("arch, name", cases("decoder", "lm"))
def test_step_graph(arch, name, tmp_path):
    if arch.role == "lm":
        module = build_lm(arch.name, dict(arch.tiny[name]))[0].lm
    else:
        config = asr_config(decoder=arch.name, decoder_conf=dict(arch.tiny[name]))
        module = build_asr(config).decoder
    step = arch.wrap(module).eval()
    graphs, memory = {}, None
    if step.memory is not None:
        graphs["memory"] = export_memory(step, DIM, tmp_path / "memory.onnx")
    graphs["step"] = export_step(step, len(TOKENS), tmp_path / "step.onnx")
    bundle = as_bundle(tmp_path, graphs)
    if step.memory is not None:
        memory = Session(bundle, "memory", Device())
    session = Session(bundle, "step", Device())
    for frames in ((19, 11), (30,), (1, 6, 3)):
        worst = parity.check_step(
            step, session, memory, DIM, len(TOKENS), arch.role, frames
        )
        assert 0 < worst <= parity.TOLERANCE


@pytest.mark.parametrize(
    "role", ["frontend", "encoder", "postencoder", "decoder", "lm"]
)
def test_an_unknown_name_is_refused_with_the_known_ones(role):
    known = [name for r, name in ARCHS if r == role]
    with pytest.raises(PluginError) as e:
        find(role, "nonesuch")
    message = str(e.value)
    assert all(name in message for name in known)
    assert f"archs/nonesuch_{role}.py" in message


def test_a_second_registration_is_refused():
    with pytest.raises(ValueError, match="registered twice"):
        register(ARCHS["decoder", "transformer"])


def test_an_architecture_without_a_tiny_configuration_is_refused():
    with pytest.raises(ValueError, match="no tiny configuration"):
        register(Arch("decoder", "untested", lambda module: module))


@pytest.mark.parametrize(
    "choices, message",
    [
        (
            dict(
                frontend=None,
                input_size=30,
                encoder_conf=dict(output_size=8, input_layer="embed"),
            ),
            "input_layer 'embed'",
        ),
        (
            dict(frontend_conf=dict(fs=8000, frontend_conf=dict(use_wpe=True))),
            "use_wpe",
        ),
        (
            dict(
                encoder="conformer",
                encoder_conf=dict(
                    output_size=8, attention_heads=2, num_blocks=1, ctc_trim=True
                ),
            ),
            "ctc_trim",
        ),
    ],
)
def test_a_setting_that_is_not_supported_is_named(choices, message):
    config = asr_config(**choices)
    model = build_asr(config)
    with pytest.raises(PluginError, match=message):
        wrap_frontend(model, Namespace(**config))
        EncoderGraph(model, {r: config[r] for r in PARTS})


def test_a_difference_is_an_error_that_names_it():
    with pytest.raises(PluginError, match=r"decoder differs.*2\.00e-04.*step 3"):
        parity.require("decoder", "step 3", 2e-4)
    assert parity.difference(np.ones(3), np.ones(4)) == float("inf")
    assert parity.difference(np.array([np.nan]), np.ones(1)) == float("inf")
