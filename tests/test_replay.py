"""Graphs whose values lie in places that stay, as CUDA's recorded runs need them.

The CPU stands for the GPU; what onnxruntime records there is counted by
``test_counting_cuda.py``.
"""

import dataclasses
import types

import numpy as np
import onnxruntime as ort
import pytest
from conftest import waves
from test_resident import assert_equal

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.runtime.asr import Speech2Text
from espnet_onnx_plugin.runtime.core import replay
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError
from espnet_onnx_plugin.runtime.core.graph_writer import GraphWriter
from espnet_onnx_plugin.runtime.core.replay import Replay, ReplayedSession
from espnet_onnx_plugin.runtime.core.runner import Runner
from espnet_onnx_plugin.runtime.core.values import open_written, to_numpy
from espnet_onnx_plugin.runtime.search.graph_scorer import open_scorer
from espnet_onnx_plugin.runtime.search.one_by_one import OneByOne

F32 = np.float32


@pytest.fixture
def counter():
    """A graph that adds to its state, and gives it and its double."""
    graph = GraphWriter()
    total = graph.Add(graph.input("x", F32), graph.input("more", F32))
    graph.output("next_x", total, F32)
    graph.output("double", graph.Add(total, total), F32)
    return Replay(open_written(graph, "cpu", "counter", replays=True), "cpu")


def described(*shape):
    return {"next_x": (F32, shape), "double": (F32, shape)}


def test_a_state_goes_back_and_forth_between_two_places(counter):
    more, x = np.ones(3, F32), np.zeros(3, F32)
    addresses, doubles = [], []
    for step in range(6):
        before = to_numpy(x)
        made = counter.run({"x": x, "more": more}, described(3))
        np.testing.assert_array_equal(to_numpy(x), before)  # it is left alone
        np.testing.assert_array_equal(to_numpy(made["next_x"]), [step + 1] * 3)
        np.testing.assert_array_equal(to_numpy(made["double"]), [2 * step + 2] * 3)
        x = made["next_x"]
        addresses.append(x.data_ptr())
        doubles.append(made["double"].data_ptr())
    assert addresses == [addresses[0], addresses[1]] * 3 != [addresses[0]] * 6
    assert len(set(doubles)) == 1
    # From an array, from either place.
    assert len(counter._combinations) == 3


def test_values_of_other_sizes_have_the_same_places(counter):
    def run(size):
        x = np.arange(size, dtype=F32)
        made = counter.run({"x": x, "more": x}, described(size))
        np.testing.assert_array_equal(to_numpy(made["next_x"]), 2 * x)
        return made["next_x"].data_ptr()

    large = run(100)
    run(0)
    assert run(60) == run(100) == large
    assert len(counter._combinations) == 3
    run(101)  # for which there is no room there
    assert len(counter._combinations) == 1
    assert run(150) == run(101)  # a place grows by more than is needed


def test_what_stays_is_settled_once(counter):
    value = ort.OrtValue.ortvalue_from_numpy(np.float32([1, 2]))
    settled = counter.settle({"more": value, "of no graph": value})
    assert settled["of no graph"] is value
    [there] = {settled["more"].data_ptr()} - {value.data_ptr()}
    again = counter.settle(settled)["more"]
    assert again is settled["more"]
    other = ort.OrtValue.ortvalue_from_numpy(np.float32([5]))
    moved = counter.settle({"more": other})["more"]
    assert moved.data_ptr() == there
    np.testing.assert_array_equal(to_numpy(moved), [5])
    array = np.float32([3, 4])
    settled = counter.settle({"more": array})["more"]
    array[:] = 0  # a copy
    np.testing.assert_array_equal(to_numpy(settled), [3, 4])


def test_a_wrong_shape_is_told(counter):
    x = np.zeros(3, F32)
    with pytest.raises(GraphError, match="counter failed"):
        counter.run({"x": x, "more": x}, described(4))


class OnGpu:
    """A session of which CUDA records runs; the second input is read on the host."""

    def __init__(self):
        self.numbers = []

    def get_provider_options(self):
        return {PROVIDERS["cuda"]: {"enable_cuda_graph": "1"}}

    def get_inputs(self):
        return [types.SimpleNamespace(name=name) for name in ("x", "shape")]

    def get_outputs(self):
        return [types.SimpleNamespace(name="next_x")]

    def get_input_memory_infos(self):
        return [types.SimpleNamespace(name=name) for name in ("Cuda", "Cpu")]

    def io_binding(self):
        return types.SimpleNamespace(
            bind_input=lambda *_: None,
            bind_cpu_input=lambda *_: None,
            bind_output=lambda *_: None,
            get_outputs=lambda: [ort.OrtValue.ortvalue_from_numpy(np.zeros(1, F32))],
        )

    def run_with_iobinding(self, binding, options):
        self.numbers.append(int(options.get_run_config_entry("gpu_graph_id")))


@pytest.fixture
def on_gpu(monkeypatch):
    """Such a session, what replays it, and a run."""
    session = OnGpu()
    replayed = Replay(Runner(session, "cuda", "step"), "cuda")
    replayed._memory = "cpu"  # where the places of this machine lie

    def run(size, shape=0):
        feeds = {"x": np.zeros(size, F32), "shape": np.array([shape])}
        replayed.run(feeds, {"next_x": (F32, [size])})
        return session.numbers[-1]

    return run


def test_runs_are_recorded_when_their_sizes_come_again(on_gpu):
    assert [on_gpu(8), on_gpu(4), on_gpu(8), on_gpu(8), on_gpu(4)] == [-1, -1, 0, 0, 1]
    assert on_gpu(8) == 0


def test_what_the_host_has_read_is_part_of_what_is_recorded(on_gpu):
    assert [on_gpu(4, 1), on_gpu(4, 2), on_gpu(4, 1), on_gpu(4, 2)] == [-1, -1, 0, 1]


def test_what_lay_in_a_place_that_moved_is_recorded_anew(on_gpu):
    assert [on_gpu(4), on_gpu(4), on_gpu(40), on_gpu(4), on_gpu(4)] == [
        -1,
        0,
        -1,
        -1,
        1,
    ]


def test_no_more_is_recorded_than_there_is_room_for(on_gpu, monkeypatch):
    monkeypatch.setattr(replay, "MOST", 1)
    assert [on_gpu(4), on_gpu(4), on_gpu(3), on_gpu(3), on_gpu(4)] == [-1, 0, -1, -1, 0]


def test_only_so_many_are_known_that_were_not_recorded(on_gpu, monkeypatch):
    monkeypatch.setattr(replay, "KNOWN", 2)
    assert [on_gpu(n) for n in (4, 4, 3, 2, 1)] == [-1, 0, -1, -1, -1]
    assert [on_gpu(n) for n in (4, 3, 1)] == [0, -1, 1]  # 1 is the newest


def test_a_run_that_cannot_be_recorded_names_the_option(on_gpu, monkeypatch):
    def failing(self, binding, options):
        raise RuntimeError("operation not permitted when stream is capturing")

    on_gpu(4)
    monkeypatch.setattr(OnGpu, "run_with_iobinding", failing)
    with pytest.raises(GraphError, match="step failed: .*; without cuda_graphs it may"):
        on_gpu(4)


def test_what_is_lost_does_not_count(on_gpu, monkeypatch):
    monkeypatch.setattr(replay, "MOST", 1)
    assert [on_gpu(4), on_gpu(4), on_gpu(40), on_gpu(40)] == [-1, 0, -1, 1]


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("ctc_weight", [0.3, 1.0, 0.0])
def test_a_model_in_places_finds_the_same(tiny, ctc_weight, resident):
    options = dict(beam_size=4, ctc_weight=ctc_weight, lm_weight=0.3, maxlenratio=-12)
    there = dict(resident=resident, buckets=True)
    plain, ours = (
        Speech2Text(tiny["bundle"], session={**there, "cuda_graphs": on}, **options)
        for on in (False, True)
    )
    speech = [plain.prepare(one) for one in waves().values()]
    # Places that others have used, for more and for fewer.
    for batch in (speech, speech[:1], speech[::-1], speech[1:]):
        for mine, other in zip(ours.batch(batch), plain.batch(batch), strict=True):
            assert_equal([r.hypothesis for r in mine], [r.hypothesis for r in other])


def test_a_search_takes_steps_of_few_sizes(tiny, monkeypatch):
    widths, run = set(), ReplayedSession._run

    def watched(self, feeds, *args):
        widths.add(feeds["tokens"].shape[1])
        return run(self, feeds, *args)

    monkeypatch.setattr(ReplayedSession, "_run", watched)
    options = dict(beam_size=4, ctc_weight=0.3, lm_weight=0.3, maxlenratio=-40)
    speech2text = Speech2Text(
        tiny["bundle"], session=dict(resident=True, cuda_graphs=True), **options
    )
    batch = [speech2text.prepare(one) for one in waves().values()]
    for _ in range(3):
        speech2text.batch(batch)
    replays = [s._step._replay for s in speech2text.search.scorers.values()]
    # A size and its double are each begun from two places, and gone on with in two.
    assert all(len(replay._combinations) <= 16 for replay in replays)
    assert widths == {4}


def test_steps_are_repeated_where_they_follow_one_another(tiny, monkeypatch):
    # What streams and searches by time keep of a step is read after many others.
    opened = []
    run = ReplayedSession._run

    def watched(self, *args):
        opened.append(self.graph.file.name)
        return run(self, *args)

    monkeypatch.setattr(ReplayedSession, "_run", watched)
    speech = next(iter(waves().values()))
    options = dict(beam_size=2, lm_weight=0.3, maxlenratio=-3)
    for more, names in (
        ({}, {"decoder.onnx", "lm.onnx"}),
        (dict(time_sync=True, ctc_weight=0.3), set()),
    ):
        del opened[:]
        Speech2Text(tiny["bundle"], session=dict(cuda_graphs=True), **options, **more)(
            speech
        )
        assert set(opened) == names


def test_a_graph_that_mixes_utterances_is_not_repeated(tiny, monkeypatch):
    bundle = read_bundle(tiny["bundle"])
    graphs = dict(bundle.manifest.graphs)
    graphs["lm"] = dataclasses.replace(graphs["lm"], batches=False)
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs)
    mixing = dataclasses.replace(bundle, manifest=manifest)
    device = Device(cuda_graphs=True)
    lm = open_scorer(mixing, "lm", device, replays=True)
    assert isinstance(lm, OneByOne) and not lm._scorer._step.replays
    assert open_scorer(bundle, "lm", device, replays=True)._step.replays
    assert not open_scorer(bundle, "lm", device)._step.replays
    assert not open_scorer(bundle, "lm", Device(), replays=True)._step.replays
