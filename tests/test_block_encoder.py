"""Encoders of streams: chunk by chunk what ESPnet's ``forward_infer`` gives."""

import copy
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from conftest import NO_SEARCH, NO_TEXT, a_few, asr_config, build_asr, save, sharpen

from espnet_onnx_plugin.bundle import BlockStream, Bundle, Manifest, redescribe
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.block_stream import wrap_stream
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.encoder import EncoderGraph
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.graph import export_graphs
from espnet_onnx_plugin.export.parity.streaming import Reference, check_stream
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE
from espnet_onnx_plugin.optimize.fuse import optimize, optimize_graph
from espnet_onnx_plugin.quantize.emulation import emulate_graph
from espnet_onnx_plugin.quantize.half_lowering import calibrate_half
from espnet_onnx_plugin.quantize.lowering import calibrate_graph
from espnet_onnx_plugin.quantize.quantize import quantize
from espnet_onnx_plugin.runtime.core.block_encoder import BlockEncoder, Chunk, plan
from espnet_onnx_plugin.runtime.core.device import Device

DIM = 20
TINY = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    block_size=8,
    hop_size=3,
    look_ahead=2,
)
BOTH = "contextual_block_transformer", "contextual_block_conformer"


def tiny_config(encoder, more=(), **choices):
    """A training configuration, of a model that reads features and is all CTC."""
    conf = {**TINY, **dict(more)}
    if conf.get("input_layer", "conv2d") is None:
        conf["output_size"] = DIM
    return asr_config(
        encoder=encoder,
        encoder_conf=conf,
        frontend=None,
        input_size=DIM,
        model_conf=dict(ctc_weight=1.0),
        **{"normalize": None, **choices},
    )


def tiny_model(config):
    model = build_asr(config)
    sharpen(model)
    return model


def streamed(path, *args, **choices):
    """A tiny model, what gives its CTC, and a bundle of its graphs for streams."""
    config = tiny_config(*args, **choices)
    model = tiny_model(config)
    graphs = wrap_stream(model, EncoderGraph(model, config), config["normalize"])
    specs = graphs.graph_specs(DIM)
    path.mkdir(exist_ok=True)
    manifest = Manifest(
        "asr",
        export_graphs(specs, path),
        None,
        NO_TEXT,
        NO_SEARCH,
        stream=graphs.settings,
    )
    return model, graphs.blocks.ctc, Bundle(path, manifest)


@pytest.fixture(scope="module", params=BOTH)
def tiny_stream(request, tmp_path_factory):
    more = dict(macaron_style=True, cnn_module_kernel=5)
    more = more if request.param.endswith("conformer") else {}
    return streamed(tmp_path_factory.mktemp("stream"), request.param, more)


def noise(frames, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, DIM), np.float32)


def cut(feats, sizes):
    """Pieces of these sizes, again and again, and the rest: (features, is_final)."""
    pieces, number = [], 0
    while len(feats):
        size = sizes[number % len(sizes)]
        pieces.append((feats[:size], size >= len(feats)))
        feats, number = feats[size:], number + 1
    return pieces


def encode(encoder, pieces, state=None):
    """Chunks that one stream gives, one after the other."""
    state, given = state or encoder.start(), []
    for feats, is_final in pieces:
        [fed] = encoder.feed([Chunk(state, feats, is_final)])
        given.append(fed)
        state = fed.state
    return given


def joined(given):
    return np.concatenate([fed.encoder_out for fed in given])


def assert_equal(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * 10)


#: Settings that, one at a time or together, touch what the chunks' arithmetic reads.
SETTINGS = {
    "conv2d6": ("transformer", dict(input_layer="conv2d6", ctx_pos_enc=False)),
    "conv2d8": ("conformer", dict(input_layer="conv2d8", cnn_module_kernel=31)),
    "linear": ("transformer", dict(input_layer="linear", hop_size=8, look_ahead=0)),
    "no_input_layer": ("transformer", dict(input_layer=None, look_ahead=0)),
    "look_ahead_to_the_edge": ("conformer", dict(hop_size=5, look_ahead=3)),
    "norm_behind": (
        "transformer",
        dict(
            normalize_before=False,
            concat_after=True,
            num_blocks=1,
            positionwise_layer_type="conv1d",
            positionwise_conv_kernel_size=3,
        ),
    ),
    "no_convolution": ("conformer", dict(use_cnn_module=False, input_layer="linear")),
}


@pytest.mark.parametrize("name", a_few(SETTINGS, 2))
def test_settings(name, tmp_path):
    encoder, more = SETTINGS[name]
    made = streamed(tmp_path, f"contextual_block_{encoder}", more)
    assert 0 < check_stream(*made, Device()) <= TOLERANCE


@pytest.mark.espnet
@pytest.mark.parametrize("sizes", [[1], [2, 5], [7], [13, 0, 1], [50, 3], [12], [999]])
def test_each_chunk_gets_espnets_frames(tiny_stream, sizes):
    model, ctc, bundle = tiny_stream
    encoder, reference = BlockEncoder(bundle, Device()), Reference(model, ctc)
    pieces = cut(noise(203), sizes)
    given = encode(encoder, pieces)
    for (feats, is_final), fed in zip(pieces, given, strict=True):
        out, scores = reference.feed(feats, is_final)
        assert_equal(fed.encoder_out, out)
        assert_equal(fed.ctc_log_probs, scores)
    [whole] = encode(encoder, [(noise(203), True)])
    assert_equal(joined(given), whole.encoder_out)


@pytest.mark.parametrize("frames", [7, 10, 11, 34, 35, 38, 39, 46, 47, 50, 51])
def test_short_utterances(tiny_stream, frames):
    """One frame, and those around the ends of the first two blocks."""
    model, ctc, bundle = tiny_stream
    encoder, reference = BlockEncoder(bundle, Device()), Reference(model, ctc)
    [whole] = encode(encoder, [(noise(frames), True)])
    assert_equal(whole.encoder_out, reference.feed(noise(frames), True)[0])
    assert_equal(joined(encode(encoder, cut(noise(frames), [1]))), whole.encoder_out)


def test_streams_get_together_what_they_get_alone(tiny_stream):
    encoder = BlockEncoder(tiny_stream[2], Device())
    streams = [cut(noise(40 + 31 * i, i), [5 + 17 * i, 60]) for i in range(5)]
    alone = [encode(encoder, pieces) for pieces in streams]
    states = [encoder.start() for _ in streams]
    for number in range(max(map(len, streams))):
        going = [i for i, pieces in enumerate(streams) if number < len(pieces)]
        fed = encoder.feed([Chunk(states[i], *streams[i][number]) for i in going])
        for i, ours in zip(going, fed, strict=True):
            expected = alone[i][number]
            assert_equal(ours.encoder_out, expected.encoder_out)
            assert_equal(ours.ctc_log_probs, expected.ctc_log_probs)
            states[i] = ours.state


def test_a_state_stays_good(tiny_stream):
    """States can be kept, written and read; a final chunk gives a new stream's."""
    encoder = BlockEncoder(tiny_stream[2], Device())
    pieces = cut(noise(150), [70])
    first, second, last = encode(encoder, pieces)
    resumed = pickle.loads(pickle.dumps(first.state))
    with pytest.raises(PluginError):
        encoder.feed([Chunk(resumed, noise(5)[:, 1:], False)])
    encode(encoder, cut(noise(80, seed=1), [80]), first.state)  # another end
    again = encode(encoder, pieces[1:], resumed)
    np.testing.assert_array_equal(again[0].encoder_out, second.encoder_out)
    np.testing.assert_array_equal(again[1].encoder_out, last.encoder_out)
    for field in fields(last.state):
        ours, start = getattr(last.state, field.name), getattr(
            encoder.start(), field.name
        )
        np.testing.assert_array_equal(ours, start)


@pytest.mark.more
def test_more_than_an_hour(tiny_stream):
    """The state does not grow, and the last frames are still ESPnet's."""
    model, ctc, bundle = tiny_stream
    encoder, reference = BlockEncoder(bundle, Device()), Reference(model, ctc)
    # ESPnet makes its table of positions anew for each block that outgrows it.
    model.encoder.pos_enc.extend_pe(200_000, "cpu", torch.float32)
    state, sizes = encoder.start(), set()
    for number in range(64):
        feats, is_final = noise(6001, number), number == 63
        [fed] = encoder.feed([Chunk(state, feats, is_final)])
        out, _ = reference.feed(feats, is_final)
        assert_equal(fed.encoder_out, out)
        state = fed.state
        sizes.add(len(pickle.dumps(state)))
    assert max(sizes) < 4000
    assert number * 6001 > 3600 * 100  # frames a second


def test_linear_repeats_a_frame_as_espnet_does(tmp_path):
    more = dict(input_layer="linear", block_size=12, hop_size=4)
    model, ctc, bundle = streamed(tmp_path, BOTH[0], more, normalize="utterance_mvn")
    pieces, reference = cut(noise(203), [7]), Reference(model, ctc)
    given = encode(BlockEncoder(bundle, Device()), pieces)
    theirs = np.concatenate([reference.feed(*piece)[0] for piece in pieces])
    assert_equal(joined(given), theirs)
    assert len(theirs) == 203 + 28
    [whole] = encode(BlockEncoder(bundle, Device()), [(noise(203), True)])
    exact = BlockEncoder(bundle, Device(), exact=True)
    for sizes in ([1], [7], [16, 0], [100]):
        assert_equal(joined(encode(exact, cut(noise(203), sizes))), whole.encoder_out)
    # ESPnet normalizes a chunk by itself.
    own = exact.normalize(noise(9))
    assert_equal(own, noise(9) - noise(9).mean(axis=0))


def test_plan_is_espnets():
    """Frames given and kept, for any sizes of blocks and chunks."""
    random = np.random.default_rng(0)
    for number in range(60):
        hop, look_ahead, more = random.integers(1, 7), *random.integers(0, 5, 2)
        layer = ("conv2d", "conv2d6", "conv2d8", "linear")[number % 4]
        sizes = dict(
            block_size=int(hop + look_ahead + more),
            hop_size=int(hop),
            look_ahead=int(look_ahead),
        )
        more = dict(num_blocks=1, input_layer=layer, **sizes)
        model = build_asr(tiny_config(BOTH[0], more))
        receptive, step = dict(conv2d=(7, 4), conv2d6=(11, 6), conv2d8=(15, 8)).get(
            layer, (1, 1)
        )
        stream = BlockStream(**sizes, subsample=step, receptive=receptive)
        reference = Reference(model, None)
        feats, frames, blocks = 0, 0, 0
        for is_final in (*[False] * 7, True):
            new = int(random.integers(0, 60)) + 15 * is_final
            todo = plan(stream, feats + new, frames, blocks, is_final)
            out, _ = reference.feed(noise(new), is_final)
            assert todo.given == len(out), more
            feats, frames = todo.kept_feats, todo.kept_frames
            blocks += todo.blocks
            kept = reference.states
            if not is_final:
                assert feats == kept["buffer_before_downsampling"].size(1)
                after = kept["buffer_after_downsampling"]
                assert frames == (0 if after is None else after.size(1))
                assert blocks == kept["n_processed_blocks"]


def test_what_cannot_be_encoded_is_told(tiny_stream):
    _, _, bundle = tiny_stream
    encoder = BlockEncoder(bundle, Device())
    with pytest.raises(PluginError, match="ends after 6 feature frames.* needs 7"):
        encode(encoder, [(noise(2), False), (noise(4), True)])
    with pytest.raises(PluginError, match=r"\(5, 19\) do not fit.* \(frames, 20\)"):
        encode(encoder, [(noise(5)[:, 1:], False)])
    whole = replace(bundle, manifest=replace(bundle.manifest, stream=None))
    with pytest.raises(PluginError, match="cannot encode a stream: .*exported by"):
        BlockEncoder(whole, Device())


@pytest.mark.parametrize(
    "encoder, more, choices",
    [
        ("conformer", dict(), {}),
        (BOTH[0], dict(block_size=0), {}),
        (BOTH[0], dict(block_size=6, hop_size=4, look_ahead=4), {}),
        (BOTH[1], dict(input_layer=None), {}),
        (BOTH[0], dict(), dict(postencoder="length_adaptor")),
    ],
)
def test_no_graphs_for_streams(encoder, more, choices):
    """ESPnet cannot encode a stream with these, or restarts its positions."""
    config = tiny_config(encoder, more, **choices)
    if encoder == "conformer":
        for name in ("block_size", "hop_size", "look_ahead"):
            del config["encoder_conf"][name]
    model = build_asr(config)
    assert wrap_stream(model, EncoderGraph(model, config), "utterance_mvn") is None


def rewritten(bundle, path, rewrite):
    """A bundle whose every graph is written anew by ``rewrite(role, old, new)``."""
    path.mkdir()
    graphs = {}
    for role, graph in bundle.manifest.graphs.items():
        batches = rewrite(role, bundle.file(graph.file.name), path / graph.file.name)
        described = redescribe(path / graph.file.name, graph)
        graphs[role] = replace(described, batches=batches)
    return Bundle(path, replace(bundle.manifest, graphs=graphs))


def assert_near(bundle, original, allowed):
    """Equal frames at the start of a stream and after more than an hour."""
    encoders = [BlockEncoder(b, Device(emulate=True)) for b in (bundle, original)]
    chunks = cut(noise(150), [31])
    start = encoders[0].start()
    frames = np.random.default_rng(1).standard_normal((6, 8), np.float32)
    for state in (start, replace(start, blocks=60_000, frames=frames)):
        ours, theirs = (joined(encode(e, chunks, state)) for e in encoders)
        assert 0 < difference(ours, theirs) <= allowed


def test_optimized(tiny_stream, tmp_path):
    counts = {}

    def rewrite(role, old, new):
        counts[role] = optimize_graph(old, new, "cpu")
        return True

    _, _, bundle = tiny_stream
    optimized = rewritten(bundle, tmp_path / "optimized", rewrite)
    assert_near(optimized, bundle, 1e-4)
    assert counts["stream_blocks"]["attention"] == TINY["num_blocks"]


def test_half(tiny_stream, tmp_path):
    def rewrite(role, old, new):
        lowering = calibrate_half(old, "fp16", (), Device())
        if lowering.ladders:
            half = new.with_name(f"half_{new.name}")
            lowering.write({x.name: "fp16" for x in lowering.ladders}, half)
            emulate_graph(half, new)
        else:
            optimize_graph(old, new, "cuda")
        return True

    _, _, bundle = tiny_stream
    assert_near(rewritten(bundle, tmp_path / "half", rewrite), bundle, 0.02)


def test_int8(tiny_stream, tmp_path):
    def rewrite(role, old, new):
        lowering = calibrate_graph(old, "int8", False, Device())
        lowering.write({layer.name: "int8" for layer in lowering.ladders}, new)
        return not lowering.ladders  # as the quantizer says

    _, _, bundle = tiny_stream
    quantized = rewritten(bundle, tmp_path / "int8", rewrite)
    assert_near(quantized, bundle, 0.4)
    # What is quantized as it comes has one scale for a batch, so each runs alone.
    encoder = BlockEncoder(quantized, Device())
    chunks = [Chunk(encoder.start(), noise(70 + i, i), True) for i in range(3)]
    for chunk, together in zip(chunks, encoder.feed(chunks)):
        [alone] = encoder.feed([chunk])
        np.testing.assert_array_equal(together.encoder_out, alone.encoder_out)


def test_a_difference_is_told(tiny_stream):
    model, ctc, bundle = tiny_stream
    model = copy.deepcopy(model)
    check_stream(model, ctc, bundle, Device())
    with torch.no_grad():
        model.encoder.encoders[1].norm1.bias += 0.01
    with pytest.raises(PluginError, match="stream differs .* feature frames; nothing"):
        check_stream(model, ctc, bundle, Device())


def test_bundles(tmp_path):
    """From a checkpoint to smaller bundles; each compares its graphs for streams."""
    config = tiny_config(BOTH[0])
    files = save(tiny_model(config), config, tmp_path / "asr", "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("asr", checkpoints, tmp_path / "fp32")
    assert bundle.manifest.stream == BlockStream(
        block_size=8, hop_size=3, look_ahead=2, subsample=4, receptive=7
    )
    assert 0 < bundle.manifest.checks["parity"]["stream"] <= TOLERANCE
    optimized = optimize(bundle, tmp_path / "optimized", "cpu").manifest
    figures = optimized.checks["optimize"]
    assert 0 < figures["differences"]["stream_blocks"] <= TOLERANCE
    assert "not_compared" not in figures
    quantized = quantize(bundle, tmp_path / "int8").manifest
    figures = quantized.checks["quantize"]["differences"]
    assert {"stream_embed", "stream_blocks"} <= figures.keys()
    assert not quantized.graphs["stream_blocks"].batches
    assert quantized.stream == optimized.stream == bundle.manifest.stream
