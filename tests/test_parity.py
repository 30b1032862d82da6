"""Every registered architecture: its graphs against ESPnet's own modules."""

import sys
from argparse import Namespace
from functools import partial

import espnet2
import numpy as np
import pytest
import ssl_checkpoints
from conftest import (
    NO_SEARCH,
    NO_TEXT,
    TOKENS,
    asr_config,
    build,
    build_asr,
    build_lm,
    sharpen,
    st_config,
)
from espnet2.tasks.asr import decoder_choices, postencoder_choices
from espnet2.tasks.slu import SLUTask
from espnet2.tasks.st import STTask
from hub_models import use_tiny_models
from test_half import HALF, differences_in_half

from espnet_onnx_plugin.bundle import Bundle, Manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.evaluate.recorder import InputRecorder
from espnet_onnx_plugin.export.encoder import EncoderGraph
from espnet_onnx_plugin.export.frontend import (
    audio_specs,
    describe_speech,
    wrap_frontend,
)
from espnet_onnx_plugin.export.graph import export_graphs
from espnet_onnx_plugin.export.parity import decoding, encoding, transducers
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE, require
from espnet_onnx_plugin.export.registry import Arch, all_archs, find, register
from espnet_onnx_plugin.export.transducers import JointModule
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoder
from espnet_onnx_plugin.runtime.core.replay import ReplayedSession
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import to_numpy

ARCHS = {(arch.role, arch.name): arch for arch in all_archs()}
DIM = 8
CPU = Device()

#: What the other parts are tried with; it costs the least to export.
ENCODER = dict(
    rnn_type="gru",
    bidirectional=False,
    use_projection=False,
    num_layers=1,
    hidden_size=DIM,
    output_size=DIM,
)

#: Where an utterance changes with the batch around it, in ESPnet too: legacy relative
#: positions count from the batch's end, a convolution that makes positions sees the
#: padding.
MIXES_BATCHES = {
    ("branchformer", "legacy"),
    ("e_branchformer", "legacy"),
    ("conformer", "legacy"),
    ("conformer", "legacy_zero_triu"),
    ("conformer", "trimmed"),
    ("conformer", "convolutional"),
}
if espnet2.__version__ < "202611":
    # The variance sees the padding.
    MIXES_BATCHES.add(("utterance_mvn", "means_and_variances"))


def cases(*roles):
    """Each architecture in each tiny configuration; the first of a role is marked.

    All but an architecture's first configuration are left to ``--full``.
    """
    seen = set()
    params = []
    for arch in ARCHS.values():
        for i, name in enumerate(arch.tiny if arch.role in roles else ()):
            marks = [] if arch.role in seen else [pytest.mark.espnet]
            marks += [pytest.mark.more] if i else []
            seen.add(arch.role)
            label = f"{arch.role}-{arch.name}-{name}"
            params.append(pytest.param(arch, name, id=label, marks=marks))
    return params


def as_bundle(path, graphs, speech=None):
    return Bundle(path, Manifest("asr", graphs, speech, NO_TEXT, NO_SEARCH))


def stand_in_for_fairseq(monkeypatch, tmp_path):
    try:
        find("frontend", "s3prl").needs()
    except PluginError as e:
        pytest.skip(str(e))
    for name, module in ssl_checkpoints.StandIn(tmp_path).modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def buildable(monkeypatch, tmp_path):
    """Skip an architecture whose package is missing; replace what a hub gives."""

    def check(arch):
        if arch.role == "encoder" and arch.name in ("wav2vec2", "hubert"):
            stand_in_for_fairseq(monkeypatch, tmp_path)
        try:
            arch.needs()
        except PluginError as e:
            pytest.skip(str(e))
        use_tiny_models(monkeypatch)

    return check


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
    conf = ssl_checkpoints.with_checkpoints(conf, tmp_path)
    choices = {arch.role: arch.name, f"{arch.role}_conf": conf}
    if arch.role != "encoder":
        choices.update(encoder="rnn", encoder_conf=ENCODER)
    if arch.features is not None:
        choices.update(frontend=None, input_size=1, normalize=None)
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
    graph = EncoderGraph(model, config).eval()
    speech = describe_speech(model, frontend, args)
    graphs = export_graphs(audio_specs(frontend, graph, speech), path)
    bundle = as_bundle(path, graphs, speech)
    recorder = InputRecorder(bundle)
    encoder = Encoder(bundle, Device(watch=recorder.record))
    return encoder, speech, partial(differences_in_half, bundle, recorder)


@pytest.fixture
def tries_half(request):
    """Whether a case is tried in float16: the first of a role, with ``--full`` all."""
    is_first = request.node.get_closest_marker("espnet") is not None
    return is_first or request.config.getoption("full")


@pytest.mark.parametrize(
    "arch, name",
    cases("frontend", "normalize", "preencoder", "encoder", "postencoder"),
)
def test_encoder_graph(arch, name, tmp_path, buildable, tries_half):
    buildable(arch)
    config = choose(arch, name, tmp_path)
    if arch.role == "postencoder" and arch.name not in postencoder_choices.classes:
        model = build(SLUTask, {**SLUTask.get_default_config(), **config})
    else:
        model = build_asr(config)
    if name == "trimmed":  # by a CTC that is sure of some utterances' blanks
        model.ctc.ctc_lo.weight.data *= 30
        model.ctc.ctc_lo.bias.data[0] += 63
    else:
        sharpen(model)  # as the sweep's models are
    encoder, speech, in_half = exported(model, config, tmp_path)
    encode = partial(encoding.encode_reference, model)
    worst = encoding.check_encoder(encode, encoder, encoding.noise(speech))
    assert 0 < worst <= TOLERANCE
    if name == "trimmed":
        encoded = [encoder([u]) for _, u in encoding.noise(speech)]
        shorter = [one.lengths < one.lengths_of("interctc_1") for one in encoded]
        assert any(shorter) and not all(shorter)
    mixes = (arch.name, name) in MIXES_BATCHES
    assert (
        encoding.encodes_batches(encoder, [u for _, u in encoding.noise(speech)])
        != mixes
    )
    if tries_half:
        assert max(in_half().values()) < HALF
    if not mixes:
        few_lengths(encoder, encoding.noise(speech))


def few_lengths(encoder, noise):
    """Frames behind the longest utterance change nothing, nor does the company that a
    frontend has of other utterances.
    """
    utterances = [utterance for _, utterance in noise]
    batches = [utterances, utterances[:1]]
    expected = [encoder(batch) for batch in batches]
    encoder._buckets = True  # as on a GPU
    for batch, outputs in zip(batches, expected):
        padded = encoder(batch).select(range(outputs.utterances))
        for name, value in outputs.items():
            assert difference(to_numpy(padded[name]), to_numpy(value)) <= TOLERANCE


NO_STEPS = ("-mlm-", "-transducer-")
STEPS = [
    case
    for case in cases("decoder", "lm")
    if not any(name in case.id for name in NO_STEPS)
]


def make_step(arch, name):
    """The step of a tiny model, and what it and its memory are exported by."""
    if arch.role == "lm":
        module = build_lm(arch.name, dict(arch.tiny[name]))[0].lm
    else:
        choices = dict(decoder=arch.name, decoder_conf=dict(arch.tiny[name]))
        if arch.name in decoder_choices.classes:
            config = asr_config(**choices, model_conf=dict(ctc_weight=0.0))
            module = build_asr(config).decoder
        else:
            module = build(STTask, st_config(**choices)).decoder
    step = arch.wrap(module).eval()
    specs = {"step": step.graph_spec(len(TOKENS))}
    if step.memory is not None:
        specs["memory"] = step.memory_spec(DIM)
    return step, specs


@pytest.mark.parametrize("arch, name", STEPS)
def test_step_graph(arch, name, tmp_path, buildable, tries_half):
    buildable(arch)
    step, specs = make_step(arch, name)
    bundle, memory = as_bundle(tmp_path, export_graphs(specs, tmp_path)), None
    recorder = InputRecorder(bundle)
    device = Device(watch=recorder.record)
    if step.memory is not None:
        memory = Session(bundle, "memory", device)
    sessions = Session(bundle, "step", device), ReplayedSession(bundle, "step", CPU)
    for frames in ((19, 11), (30,), (1, 6, 3)):
        for session in sessions:
            worst = decoding.check_step(
                step, session, memory, DIM, len(TOKENS), arch.role, frames
            )
            assert 0 < worst <= TOLERANCE
    if tries_half:
        in_half = differences_in_half(bundle, recorder)
        assert max(in_half.values()) < HALF


@pytest.mark.parametrize("name", ARCHS["decoder", "mlm"].tiny)
def test_sequence_graph(name, tmp_path):
    arch = ARCHS["decoder", "mlm"]
    config = asr_config(
        model="maskctc", decoder="mlm", decoder_conf=dict(arch.tiny[name])
    )
    model = build_asr(config)
    decoder = arch.wrap(model.decoder).eval()
    size = len(model.token_list)
    assert size == len(TOKENS) + 1  # and the mask
    specs = {"memory": decoder.memory_spec(DIM), "decoder": decoder.graph_spec(size)}
    bundle = as_bundle(tmp_path, export_graphs(specs, tmp_path))
    sessions = [Session(bundle, role, Device()) for role in ("decoder", "memory")]
    worst = decoding.check_sequence(decoder, *sessions, DIM, size, "mlm")
    assert 0 < worst <= TOLERANCE


#: Settings of the joint network: each activation that ESPnet names.
JOINTS = {
    "tanh": dict(lin_dec_bias=False),
    "ftswish": dict(ftswish_mean_shift=0.3),
    "hardtanh": dict(hardtanh_max_val=0.4),
    "leaky_relu": dict(leakyrelu_neg_slope=0.2),
    "mish": dict(softplus_beta=2.0),
    "relu": {},
    "selu": {},
    "smish": dict(smish_alpha=0.5),
    "swish": dict(swish_beta=1.5),
    "identity": {},
}


def transducer(arch, decoder_conf, **joint_conf):
    """The modules of a transducer as graphs: prediction network and joint network."""
    config = asr_config(
        decoder=arch.name,
        decoder_conf=dict(decoder_conf),
        joint_net_conf=dict(joint_space_size=9, **joint_conf),
    )
    model = build_asr(config)
    joint = model.joint_network
    return arch.wrap(model.decoder, joint.lin_dec).eval(), JointModule(joint).eval()


@pytest.mark.parametrize("name", ARCHS["decoder", "transducer"].tiny)
def test_prediction_graph(name, tmp_path):
    arch = ARCHS["decoder", "transducer"]
    network, _ = transducer(arch, arch.tiny[name])
    graphs = export_graphs({"decoder": network.graph_spec(len(TOKENS))}, tmp_path)
    session = Session(as_bundle(tmp_path, graphs), "decoder", Device())
    worst = transducers.check_prediction(network, session, len(TOKENS), "decoder")
    assert 0 < worst <= TOLERANCE


@pytest.mark.parametrize("activation", JOINTS)
def test_joint_graph(activation, tmp_path):
    arch = ARCHS["decoder", "transducer"]
    conf = dict(joint_activation_type=activation, **JOINTS[activation])
    _, joint = transducer(arch, arch.tiny["lstm"], **conf)
    specs = {"memory": joint.memory_spec(DIM), "joint": joint.graph_spec(len(TOKENS))}
    bundle = as_bundle(tmp_path, export_graphs(specs, tmp_path))
    sessions = [Session(bundle, role, Device()) for role in ("joint", "memory")]
    worst = transducers.check_joint(joint, *sessions, DIM, "joint")
    assert 0 < worst <= TOLERANCE


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
    ],
)
def test_a_setting_that_is_not_supported_is_named(choices, message):
    config = asr_config(**choices)
    model = build_asr(config)
    with pytest.raises(PluginError, match=message):
        wrap_frontend(model, Namespace(**config))
        EncoderGraph(model, config)


def test_a_difference_is_an_error_that_names_it():
    with pytest.raises(PluginError, match=r"decoder differs.*2\.00e-04.*step 3"):
        require("decoder", "step 3", 2e-4)
    assert encoding.difference(np.ones(3), np.ones(4)) == float("inf")
    assert encoding.difference(np.array([np.nan]), np.ones(1)) == float("inf")
