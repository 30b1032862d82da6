"""Bounds of a job: audio is held once, memory and files stay as they were."""

import contextlib
import functools
import gc
import os
import re
import resource
import subprocess
import sys
import tempfile
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_diar
import test_enh
from conftest import RATE, a_few, save_diar, save_tts, waves
from test_asr import decode as command
from test_asr import read, refused
from test_input import scp

import espnet_onnx_plugin
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.core import limits
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError
from espnet_onnx_plugin.runtime.core.limits import Free, free_memory, memory_of
from espnet_onnx_plugin.runtime.diar import DiarizeSpeech
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.io import progress
from espnet_onnx_plugin.runtime.io.audio import READERS, Audio
from espnet_onnx_plugin.runtime.io.data import Source, attempts
from espnet_onnx_plugin.runtime.io.records import read_records
from espnet_onnx_plugin.runtime.recognition.decode import BatchLimits, decode
from espnet_onnx_plugin.runtime.tts import Text2Speech


@pytest.mark.parametrize(
    "form, subtypes",
    [
        ("WAV", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]),
        ("FLAC", ["PCM_16", "PCM_24"]),
        ("OGG", ["VORBIS"]),
    ],
)
def test_samples_read_in_float32_are_those_of_float64(tmp_path, form, subtypes):
    wave = 0.7 * np.random.default_rng(0).uniform(-1, 1, 4000)
    for subtype in subtypes:
        path = str(tmp_path / f"a.{form.lower()}")
        soundfile.write(path, wave, RATE, subtype=subtype, format=form)
        wide = READERS["sound"](path, "float64").array
        narrow = READERS["sound"](path, "float32").array
        assert narrow.dtype == np.float32
        assert np.array_equal(narrow, wide.astype(np.float32)), subtype


def test_audio_is_held_once_and_in_float32(tiny, tmp_path, monkeypatch):
    taken = []

    class Model(espnet_onnx_plugin.Speech2Text):
        def prepare(self, speech):
            taken.append((speech, super().prepare(speech)))
            return taken[-1][1]

    read = attempts(Source(scp(tmp_path, waves()), "sound"), None, "float32")
    list(decode(Model(tiny["bundle"], beam_size=1), read))
    assert taken
    for before, after in taken:
        assert before.dtype == np.float32 and np.shares_memory(before, after)


def test_audio_is_let_go_with_its_batch(tiny, tmp_path):
    audio = []
    most = []

    class Held(np.ndarray):
        """An array that can be referred to weakly."""

    class Model(espnet_onnx_plugin.Speech2Text):
        def prepare(self, speech):
            held = super().prepare(speech).copy().view(Held)
            audio.append(weakref.ref(held))
            return held

        def batch(self, utterances):
            most.append(sum(one() is not None for one in audio))
            return super().batch(utterances)

    wave = waves()["utt0"].astype(np.float32)
    several = ((f"u{i}", Audio(wave, RATE)) for i in range(8))
    list(decode(Model(tiny["bundle"], beam_size=1), several, BatchLimits(2)))
    assert most == [8, 6, 4, 2]


# Memory


def files(root, **content):
    for name, text in content.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


GIB = 2**30

MACHINE = {"proc__meminfo": "MemTotal: 9437184 kB\nMemAvailable:    8388608 kB\n"}


def test_free_memory_is_that_of_the_machine(tmp_path):
    assert free_memory(tmp_path, {}) is None
    files(tmp_path, **MACHINE)
    assert free_memory(tmp_path, {}) == (8 * GIB, "on this machine")


@pytest.mark.parametrize("inside", [True, False], ids=["host", "container"])
def test_free_memory_is_that_of_the_smallest_cgroup(tmp_path, inside):
    files(
        tmp_path,
        **MACHINE,
        proc__self__cgroup="0::/slurm/job_7/step_0\n",
    )
    group = tmp_path / "sys/fs/cgroup" / ("slurm/job_7" if inside else "")
    files(group, **{"memory.max": f"{4 * GIB}\n", "memory.current": f"{3 * GIB}\n"})
    files(group, **{"memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 0\n"})
    if inside:
        files(group / "step_0", **{"memory.max": "max\n", "memory.current": "5\n"})
    assert free_memory(tmp_path, {}) == (2 * GIB, "in this job's cgroup")


def test_free_memory_is_that_of_a_cgroup_of_version_1(tmp_path):
    files(
        tmp_path,
        **MACHINE,
        proc__self__cgroup="5:cpu,cpuacct:/a\n4:memory:/b\n0::/\n",
    )
    group = tmp_path / "sys/fs/cgroup/memory/b"
    files(group, **{"memory.usage_in_bytes": "0\n", "memory.stat": ""})
    files(group, **{"memory.limit_in_bytes": f"{2**63 - 4096}\n"})
    assert free_memory(tmp_path, {})[1] == "on this machine"
    files(group, **{"memory.limit_in_bytes": f"{GIB}\n"})
    assert free_memory(tmp_path, {}) == (GIB, "in this job's cgroup")


@pytest.mark.parametrize(
    "environment, gib",
    [
        ({"SLURM_MEM_PER_NODE": "2048"}, 2),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "4"}, 4),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "1024"}, None),
    ],
)
def test_free_memory_is_that_of_a_slurm_job(tmp_path, environment, gib):
    files(tmp_path, **MACHINE, proc__self__status="VmRSS:\t1048576 kB\n")
    free = free_memory(tmp_path, environment)
    if gib is None:
        assert free.where == "on this machine"
    else:
        assert free == ((gib - 1) * GIB, "in this Slurm job")


def pretend(monkeypatch, free):
    """Say that so much memory is free."""
    look = limits._bound.__wrapped__
    monkeypatch.setattr(limits, "_bound", functools.lru_cache(maxsize=1)(look))
    monkeypatch.setattr(limits, "free_memory", lambda: free)


def test_an_utterance_that_is_too_long_for_the_memory_is_refused_alone(
    tiny, tmp_path, monkeypatch
):
    pretend(monkeypatch, Free(GIB // 8, "in this Slurm job"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    noise = np.random.default_rng(0).standard_normal(120 * RATE).astype(np.float32)
    lengths = {"a": 1, "long": 120, "b": 1}
    audio = {key: Audio(noise[: n * RATE], RATE) for key, n in lengths.items()}
    model = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=1)
    alone = {u.key: u.results for u in decode(model, audio.items()) if u.key != "long"}
    for batches in (BatchLimits(), BatchLimits(3)):
        found = {u.key: u for u in decode(model, audio.items(), batches)}
        assert [u.failure is None for u in found.values()] == [True, False, True]
        assert re.fullmatch(
            r"needs at least \d+\.\d\d GiB of memory, 0\.12 GiB are free in this Slurm "
            r"job; segment it .*, or give the job more memory",
            str(found["long"].failure),
        )
        for key in "ab":
            assert found[key].results[0][:3] == alone[key][0][:3]
    assert resource.getrlimit(resource.RLIMIT_AS) == before


GIVEN_BACK = """
import sys
import numpy as np
import espnet_onnx_plugin
from espnet_onnx_plugin.runtime.core import limits
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError
model = espnet_onnx_plugin.Speech2Text(sys.argv[1], beam_size=1)
noise = np.random.default_rng(0).standard_normal(120 * int(sys.argv[2]))
noise = noise.astype(np.float32)
short = model.prepare(noise[: int(sys.argv[2])])
model.encode([short])
before = limits.mapped()
limits.free_memory = lambda: limits.Free(2**27, "")
limits._bound.cache_clear()
try:
    with limits.memory_of(Device(), "none"):
        model.encode([model.prepare(noise)])
except GraphError:
    pass
taken = limits.mapped() - before
model.encode([short])
print(taken, limits.mapped() - before)
"""


def test_what_a_failed_run_had_taken_is_given_back(tiny):
    """In a process of its own: others have taken memory before."""
    words = [sys.executable, "-c", GIVEN_BACK, str(tiny["bundle"]), str(RATE)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    taken, left = map(int, said.split())
    # The arena of the graph that failed; those of the graphs before it had enough.
    assert taken - left > 2**23


def test_arrays_are_refused_too(monkeypatch):
    pretend(monkeypatch, Free(GIB // 8, "here"))
    with pytest.raises(GraphError, match="needs at least 3.00 GiB of memory, 0.12"):
        with memory_of(Device(), "none"):
            np.ones(3 * GIB, np.uint8)
    with pytest.raises(GraphError, match="^of something else$"):
        with memory_of(Device(), "none"):
            raise GraphError("of something else")


# Time


def test_a_job_whose_time_is_over_is_gone_on_with(tiny, tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(
        progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock))
    )
    data = scp(tmp_path, waves())
    message = refused(
        capsys,
        tiny,
        tmp_path,
        *("--beam_size", 1, "--time_limit", 25),
        data=data,
        left=["out.incomplete"],
    )
    assert message == (
        "asr_inference: error: the time limit of 25 s is over with 2 of 4 utterances "
        "left; what is done is kept, run it again to go on"
    )
    assert list(read_records(tmp_path / "out.incomplete")[1]) == ["utt0", "utt1"]

    command(tiny, tmp_path, "--beam_size", 1, "--time_limit", 10_000, data=data)
    assert list(read_records(tmp_path / "out")[1]) == list(waves())
    assert read(tmp_path / "out" / "1best_recog" / "text").keys() == waves().keys()


# What is left open


@pytest.fixture
def own_temporary(tmp_path_factory, monkeypatch):
    """A directory of temporary files that no other process writes into."""
    own = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(own))


def left_open():
    """Files, threads, processes and temporary files of this process."""
    gc.collect()
    pid = os.getpid()
    tasks = [Path(f"/proc/{pid}/task/{task}") for task in os.listdir("/proc/self/task")]
    return dict(
        files=len(os.listdir("/proc/self/fd")),
        threads=len(tasks),
        processes="".join((task / "children").read_text() for task in tasks),
        temporary=sorted(os.listdir(tempfile.gettempdir())),
    )


def asr(tiny, root):
    return espnet_onnx_plugin.Speech2Text, tiny["bundle"], waves()["utt0"]


def enh(tiny, root):
    bundle, _ = test_enh.exported("tcn", "global", root)
    return SeparateSpeech, bundle, waves()["utt0"][None]


def diar(tiny, root):
    bundle = test_diar.made("diar", root, save_diar(root))["bundle"]
    return DiarizeSpeech, bundle, waves()["utt0"][None]


def tts(tiny, root):
    files = save_tts("fastspeech", "transformer", root)
    checkpoints = Checkpoints(files["config"], files["file"])
    return Text2Speech, export_bundle("tts", checkpoints, root / "fp32"), "abc"


@pytest.mark.parametrize("kind", a_few([asr, enh, diar, tts], keep=2))
def test_a_door_that_is_closed_leaves_nothing_open(kind, tiny, tmp_path, own_temporary):
    door, bundle, given = kind(tiny, tmp_path)

    def use():
        door(getattr(bundle, "path", bundle), "cpu", 2)(given)

    use()  # what is opened once for all, such as libraries
    before = left_open()
    for _ in range(4):
        use()
    assert left_open() == before


def test_a_command_leaves_nothing_open(tiny, tmp_path, own_temporary):
    data = scp(tmp_path, {**waves(), "bad": np.full(RATE, np.nan, np.float32)})
    call = (tiny, tmp_path, "--beam_size", 1, "--force", "true")
    command(*call, "--max_failures", 1, data=data)
    before = left_open()
    for most in (0, 1):
        with contextlib.suppress(SystemExit):
            command(*call, "--max_failures", most, data=data)
    assert left_open() == before


def test_audio_that_does_not_fit_is_no_end_of_the_job(tmp_path, monkeypatch):
    pretend(monkeypatch, Free(GIB // 16, "here"))
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(30):
            file.write(np.zeros(2**20, np.float32))
    (tmp_path / "wav.scp").write_text(f"a {path}\nb {path}\n")
    read = attempts(Source(tmp_path / "wav.scp", "sound"), None, "float32")
    for _ in "ab":
        with memory_of(Device(), "none"):
            _, refusal = next(read)
        assert "Unable to allocate 120. MiB" in str(refusal)
