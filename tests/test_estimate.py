"""The memory that a graph needs is known before it runs on much."""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import RATE
from test_bounds import GIB, pretend

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import Tensor, read_bundle
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.runtime.core import estimate, limits
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.estimate import RUNS, STEP, Estimate, Growth
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError, MemoryNeeded
from espnet_onnx_plugin.runtime.core.limits import Free, memory_of
from espnet_onnx_plugin.runtime.core.runner import Runner
from espnet_onnx_plugin.runtime.core.session import Session, open_graph
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.recognition.decode import decode


@pytest.mark.parametrize(
    "size, long",
    [
        (lambda n: 7 * n + 3, 7e6 + 3),
        (lambda n: 5 * n * n + n, 5e12 + 1e6),
        # Rounded: one more in some steps is no square.
        (lambda n: 4 * (n // 7), None),
        (lambda n: 4 * -(-n // 32), None),
        (lambda n: 12, 12),
    ],
)
def test_growth(size, long):
    growth = Growth.of([size(n * STEP) for n in range(1, RUNS + 1)])
    found = growth.at(1e6 / STEP - 1)
    assert found == pytest.approx(long or size(10**6), rel=1e-9 if long else 0.1)
    assert found <= (long or size(10**6)) * (1 + 1e-9)


@pytest.fixture(scope="module")
def bundles(tiny, tmp_path_factory):
    """By precision: attention of the second is one node."""
    fp32 = read_bundle(tiny["bundle"])
    root = tmp_path_factory.mktemp("optimized")
    return dict(fp32=fp32, optimized=optimize(fp32, root / "optimized", "cpu"))


def features(frames, utterances=1):
    feats = np.zeros((utterances, frames, 20), np.float32)
    return dict(feats=feats, feats_lengths=np.full(utterances, frames))


def encoder(bundle):
    """The encoder, and what its runs need."""
    made = Session(bundle, "encoder", Device())
    return made, made.check


@pytest.mark.parametrize("name", ["fp32", "optimized"])
def test_short_runs_tell_what_a_long_one_takes(bundles, name, tmp_path, monkeypatch):
    """As onnxruntime tells it of the long run."""
    monkeypatch.setattr(estimate, "LONG", 0)
    graph = bundles[name].manifest.graphs["encoder"]
    path = bundles[name].file(graph.file.name)
    session = open_graph(path, Device(), "fp32", graph, tmp_path / "profile")
    session.run(None, features(6000))
    events = json.loads(Path(session.end_profiling()).read_text())
    # Of the scores there are two at least: before and behind the softmax, or the mask;
    # in the node they are there once. Two heads, and a quarter of the frames.
    scores = 2 * 1499**2 * 4
    told = max(estimate._sizes(events, 2).values())
    assert told > scores * (2 if name == "fp32" else 1)
    _, needed = encoder(bundles[name])
    assert needed(features(6000)) == pytest.approx(told, rel=0.02)
    assert needed(features(6000, 3)) == 3 * needed(features(6000))


def test_short_inputs_are_not_looked_at(bundles):
    def refuse(*_):
        raise AssertionError

    graph = bundles["fp32"].manifest.graphs["encoder"]
    checked = Estimate(graph, bundles["fp32"].file(graph.file.name), refuse)
    short = {"utterances": 50, "frames_in": RUNS * STEP}
    assert checked.bytes(short, refuse) == 0
    assert checked.bytes({"utterances": 1, "frames_in": 3000}, refuse) == 0
    # A step of a decoder is no run on an utterance.
    graph = bundles["fp32"].manifest.graphs["decoder"]
    assert Estimate(graph, bundles["fp32"].path, refuse).axis is None


def test_a_graph_that_needs_too_much_is_not_run(bundles, monkeypatch):
    made, needed = encoder(bundles["fp32"])
    feeds = features(60_000)
    gib = needed(feeds) / GIB
    assert 3.3 < gib < 3.7  # twice 2 heads x 14,999 x 14,999
    monkeypatch.setattr(Runner, "run", None)
    pretend(monkeypatch, Free(GIB // 8, "here"))
    with pytest.raises(GraphError, match=f"^needs at least {gib:.2f} GiB .* 0.12 GiB"):
        with memory_of(Device(), "none"):
            made.run(feeds, ())
    # So it is under a limit that somebody else has set.
    with pytest.raises(MemoryNeeded, match=f"encoder.onnx needs {gib:.2f} GiB"):
        with limits._at_most((limits.mapped() or 0) + GIB // 8):
            made.run(feeds, ())
    with pytest.raises(TypeError):  # it would run
        made.run(feeds, ())


def test_what_a_long_run_has_taken_is_given_back(bundles, monkeypatch):
    given = []
    made, _ = encoder(bundles["fp32"])
    monkeypatch.setattr(made._runner, "run", lambda *args: given.append(args[-1]))
    made.run(features(20), ())
    made.run(features(60_000), ())
    assert given == [False, True]


def test_a_long_utterance_fails_alone(bundles, monkeypatch):
    monkeypatch.setattr(estimate, "LONG", 0)
    pretend(monkeypatch, Free(GIB // 8, "here"))
    noise = np.random.default_rng(0).standard_normal(150 * RATE).astype(np.float32)
    audio = {"a": Audio(noise[:RATE], RATE), "long": Audio(noise, RATE)}
    model = espnet_onnx_plugin.Speech2Text(bundles["fp32"], beam_size=1)
    failures = {u.key: u.failure for u in decode(model, audio.items())}
    assert failures["a"] is None
    assert isinstance(failures["long"].__cause__, MemoryNeeded)


def test_features_of_too_much_are_not_made(bundles, monkeypatch):
    monkeypatch.setattr(estimate, "LONG", 0)
    pretend(monkeypatch, Free(GIB // 8, "here"))
    model = espnet_onnx_plugin.Speech2Text(bundles["fp32"], beam_size=1)
    frontend, lengths = model._encoder._frontend, []
    run = frontend.run

    def record(feeds, fetch):
        lengths.append(feeds["speech"].shape[1])
        return run(feeds, fetch)

    monkeypatch.setattr(frontend, "run", record)
    noise = np.random.default_rng(0).standard_normal(2**21).astype(np.float32)
    with pytest.raises(GraphError, match="needs at least"):
        with memory_of(Device(), "none"):
            model.encode([noise])
    assert lengths == [2**20]


def test_where_no_profile_can_be_written_the_run_itself_tells(bundles, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    made, needed = encoder(bundles["fp32"])
    assert needed(features(60_000)) == 0


def test_what_an_estimate_is_made_of(bundles, monkeypatch):
    monkeypatch.setattr(estimate, "LONG", 0)
    made, needed = encoder(bundles["fp32"])
    cuts = []

    def profile(feeds):
        cuts.append({name: (v.shape, v.max()) for name, v in feeds.items()})
        args = {"op_name": "Add", "activation_size": "5", "output_size": "9"}
        events = [{"name": "every", "args": args}, {"name": "session"}]
        events.append({"name": "apart", "args": {**args, "op_name": "MatMul"}})
        if len(cuts) < RUNS:  # a branch that is for short lengths
            large = {**args, "output_size": str(9**9)}
            events.append({"name": "short", "args": large})
        return events

    monkeypatch.setattr(made._estimate, "_profile", profile)
    assert needed(features(6000, 2)) == 2 * (5 + 9)
    assert cuts == [
        {"feats": ((1, n, 20), 0), "feats_lengths": ((1,), n)}
        for n in (240, 480, 720, 960)
    ]


def test_scores_of_fused_attention():
    queries, keys, bias = [1, 5, 8], [1, 7, 8], [24]
    given = [{"float": shape} for shape in (queries, keys, keys, bias)]
    assert estimate._scores(given) == estimate._scores(given[:3]) == 0
    assert estimate._scores([*given, {"int32": [1, 7]}]) == 5 * 7 * 4
    assert estimate._scores([*given[:3], {"float": [1, 2, 5, 7]}]) == 5 * 7 * 4


def test_a_graph_with_states_has_no_estimate(bundles):
    graphs = bundles["fp32"].manifest.graphs
    stateful = dataclasses.replace(graphs["encoder"], states=graphs["decoder"].states)
    path = bundles["fp32"].path
    assert Estimate(stateful, path, open_graph).axis is None
    assert Estimate(graphs["encoder"], path, open_graph).axis == "frames_in"
    # Nor one that works on rows of a beam, in every step of a search.
    rows = {"tokens": Tensor("int64", ("rows",))}
    steps = dataclasses.replace(graphs["encoder"], inputs=rows)
    assert Estimate(steps, path, open_graph).axis is None
