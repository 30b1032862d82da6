"""scripts/gpu_check.py: what runs in the time there is, and what is kept of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import numpy as np
import pytest
from benchmarking.settings import BatchDecode
from gpu_checking import gpu, operators, plan, speed
from gpu_checking.job import CONF, Job, make_audio
from gpu_checking.parity import searching, variants
from gpu_checking.plan import RESERVE, Check, Part
from gpu_checking.results import Results, show, table
from gpu_checking.sizes import FULL, TINY

from espnet_onnx_plugin.errors import PluginError

SCRIPTS = Path(gpu_check.__file__).parent
SETTING = {"provider": "cpu", "tiny": True}

#: Begins the code of a part: writes a row.
ROW = """
import json, os, subprocess, sys, time
def row(**columns):
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps(columns) + chr(10))
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Run parts, each given as its code; return their results."""
    monkeypatch.setattr(plan, "POLL", 0.02)

    def run(parts, seconds=60.0, decided=lambda model: True):
        def command(part, rows, limit):
            return [sys.executable, "-c", ROW + parts[part], rows]

        results = Results(tmp_path, SETTING)
        Check(list(parts), results, seconds, tmp_path / "work", command, decided).run()
        written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        assert {n: p["status"] for n, p in written["parts"].items()} == {
            n: p.status for n, p in results.parts.items()
        }
        return results.parts

    return run


def part(name, least=1.0, most=30.0, **others):
    return Part(name, "module", f"Title of {name}", least, most, **others)


def test_parts_that_fail_are_told_and_the_others_run(check):
    found = check(
        {
            part("good"): "row(x=1); row(x=2)",
            part("bad"): "row(x=3); sys.exit('gpu_check: error: no such card')",
            part("raises"): "raise ValueError('of this')",
            part(
                "crashes"
            ): "print('last words', flush=True); os.kill(os.getpid(), 11)",
            part("next"): "row(x=4)",
        }
    )
    assert [(p.status, p.rows) for p in found.values()] == [
        ("ok", [{"x": 1}, {"x": 2}]),
        ("failed: gpu_check: error: no such card", [{"x": 3}]),
        ("failed: ValueError: of this", []),
        ("failed: ended by signal 11 (last words)", []),
        ("ok", [{"x": 4}]),
    ]


def test_a_part_that_takes_too_long_is_cut_with_its_own_processes(check, tmp_path):
    pid = tmp_path / "pid"
    sleeper = f"""
row(x=1)
sleeper = subprocess.Popen(["sleep", "60"])
open({str(pid)!r}, "w").write(str(sleeper.pid))
sleeper.wait()
"""
    start = time.monotonic()
    found = check({part("long", most=1.0): sleeper, part("next"): "row(x=2)"})
    assert time.monotonic() - start < 20
    assert (found["long"].status, found["long"].rows) == ("cut: time", [{"x": 1}])
    assert found["long"].seconds >= 1.0
    assert found["next"].status == "ok"
    stat = Path("/proc", pid.read_text(), "stat")
    assert not stat.exists() or " Z " in stat.read_text()


def test_what_does_not_fit_into_the_time_is_not_begun(check):
    parts = {part("first"): "time.sleep(0.5)", part("large", least=10.0): "row(x=1)"}
    found = check({**parts, part("small", least=0.1): "row(x=2)"}, RESERVE + 9.0)
    assert [p.status for p in found.values()] == ["ok", "not run: time", "ok"]
    assert found["large"].rows == []


def test_a_part_is_given_no_more_time_than_there_is(check):
    found = check({part("long", least=0.1): "row(x=1); time.sleep(60)"}, RESERVE + 1.5)
    assert (found["long"].status, found["long"].rows) == ("cut: time", [{"x": 1}])


def test_times_are_measured_when_nothing_else_runs(check):
    beside = part("beside", background=True)
    parts = {
        beside: "time.sleep(0.8); row(end=time.time())",
        part("untimed"): "row(start=time.time())",
        part("timed", timed=True): "row(start=time.time())",
    }
    found = check(parts)
    [untimed], [timed] = (found[name].rows for name in ("untimed", "timed"))
    [end] = found["beside"].rows
    assert untimed["start"] < end["end"] < timed["start"]


def test_a_part_waits_for_its_model(check, tmp_path):
    made = tmp_path / "made"
    maker = f"time.sleep(0.5); open({str(made)!r}, 'w'); time.sleep(0.7); row(x=0)"
    parts = {
        part("models", background=True): maker,
        part("part", needs=("model",)): f"row(there=os.path.exists({str(made)!r}))",
    }
    found = check(parts, decided=lambda model: made.exists())
    assert found["part"].rows == [{"there": True}]


def test_a_model_that_never_comes_keeps_nothing_waiting(check):
    parts = {
        part("models", background=True): "sys.exit('no space')",
        part("part", needs=("model",)): "sys.exit('no bundle')",
    }
    found = check(parts, decided=lambda model: False)
    assert [p.status for p in found.values()] == [
        "failed: no space",
        "failed: no bundle",
    ]


RUN = '''
import sys
from pathlib import Path
from gpu_checking.plan import Check, Part
from gpu_checking.results import Results
code = """
import sys, time
with open(sys.argv[1], 'a') as file:
    file.write('{"x": 1}' + chr(10))
time.sleep(5)
"""
command = lambda part, rows, limit: [sys.executable, "-c", code, rows]
output = Path(sys.argv[1])
results = Results(output, {"provider": "cpu"})
Check([Part("long", "m", "Title", 1, 60)], results, 60, output / "work", command).run()
'''


def test_a_run_that_is_killed_keeps_what_it_has(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS}:{SCRIPTS.parent}"}
    run = subprocess.Popen([sys.executable, "-c", RUN, tmp_path], env=environment)
    # The page is written after the results.
    page, end = tmp_path / "RESULTS.md", time.monotonic() + 60
    while not (page.exists() and "| x |" in page.read_text(encoding="utf-8")):
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = Results(tmp_path, {"provider": "cpu"}).parts["long"]
    assert (kept.status, kept.rows) == ("unfinished", [{"x": 1}])
    assert "## Title\n\nunfinished, " in page.read_text(encoding="utf-8")


def test_parts_that_are_not_run_again_are_kept(check, tmp_path):
    check({part("first"): "row(x=1)", part("second"): "sys.exit('once')"})
    found = check({part("second"): "row(x=2)"})
    assert [(p.status, p.rows) for p in found.values()] == [
        ("ok", [{"x": 1}]),
        ("ok", [{"x": 2}]),
    ]
    with pytest.raises(
        PluginError, match="provider cpu, tiny yes, not for provider cu"
    ):
        Results(tmp_path, {"provider": "cuda", "tiny": False})


def test_tables():
    rows = [{"system": "a|b", "s": 0.123456, "n": 3}, {"system": "c", "holds": True}]
    assert table(rows) == [
        "| system | s | n | holds |",
        "|---|---:|---:|---:|",
        "| a\\|b | 0.1235 | 3 | — |",
        "| c | — | — | yes |",
    ]
    assert show(123456.7) == "123457" and show(0.00012) == "0.00012"


def job(tmp_path, provider="cpu"):
    return Job(provider, True, tmp_path, tmp_path / "rows.jsonl", time.time() + 60)


def test_a_job_is_handed_on_as_text(tmp_path):
    given = job(tmp_path)
    assert Job.from_json(given.to_json()) == given
    assert 0 < given.left <= 60


def test_a_bundle_that_was_not_made_is_told(tmp_path):
    model = job(tmp_path).model("small")
    with pytest.raises(
        PluginError, match="no fp32 bundle of smoke_sharp: the time was"
    ):
        model.bundle("fp32")
    model.directory.mkdir(parents=True)
    model.state.write_text(json.dumps({"fp16": "misses the budget"}))
    with pytest.raises(PluginError, match="no fp16 bundle of .*: misses the budget"):
        model.bundle("fp16")
    model.forget_failures()
    assert model.made() is None
    model.state.write_text(json.dumps({"fp32": 1.0, "optimized": 2.0, "fp16": 3.0}))
    model.forget_failures()
    assert model.made() == {"fp32": 1.0, "optimized": 2.0, "fp16": 3.0}


def test_every_model_has_a_configuration():
    assert set(FULL.models) == set(TINY.models)
    for name in (*FULL.models.values(), *TINY.models.values()):
        assert (CONF / f"{name}.yaml").is_file()
    needed = {model for part in gpu_check.PARTS for model in part.needs}
    assert needed == set(FULL.models)


def test_every_part_is_documented():
    page = CONF.parents[1] / "scripts" / "gpu_checking" / "README.md"
    text = page.read_text(encoding="utf-8")
    for part in gpu_check.PARTS:
        assert f"| `{part.name}` | " in text


def test_without_a_driver_memory_is_not_told(monkeypatch):
    def none(name):
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr(gpu.ctypes, "CDLL", none)
    with pytest.raises(PluginError, match="no driver of NVIDIA is installed here: lib"):
        gpu.Gpu()
    with gpu.watch_memory("cuda") as peak:
        assert peak.mb is None


def test_the_gpus_memory_is_watched(monkeypatch):
    class Card:
        used_mb = 100.0

    monkeypatch.setattr(gpu, "Gpu", Card)
    monkeypatch.setattr(gpu, "PERIOD", 0.001)
    with gpu.watch_memory("cuda") as peak:
        for used in (300.0, 150.0):
            Card.used_mb = used
            time.sleep(0.1)
        assert peak.mb == 200.0


def test_audio_is_made_and_is_not_all_alike():
    audio, other = make_audio(1.05, 16000, 0), make_audio(1.05, 16000, 1)
    assert audio.shape == other.shape == (16800,) and audio.dtype == np.float32
    assert 0.02 < audio.std() < 0.3 and abs(audio).max() < 1
    assert not np.array_equal(audio, other)
    assert np.array_equal(audio, make_audio(1.05, 16000, 0))


def node(name, ts, provider="CUDAExecutionProvider"):
    given = {"op_name": name, "provider": provider}
    event = dict(cat="Node", name=f"{name}_kernel_time", ts=ts, dur=1000, args=given)
    return event


def test_a_profile_is_read_without_what_warms_up():
    runs = [
        dict(cat="Session", name="model_run", ts=ts, dur=5000)
        for ts in (0, 10000, 20000, 30000)
    ]
    early = [node("Conv", 100)] * 50
    late = [node("MatMul", 20100), node("MatMul", 30100)]
    late += [node("Pad", 30200, "CPUExecutionProvider")]
    kernel = dict(cat="Kernel", name="gemm", ts=30150, dur=500, args=dict(op_name="Mm"))
    count, milliseconds, shares = operators.read([*runs, *early, *late, kernel])
    assert (count, milliseconds) == (2, 5.0)
    assert shares == [
        operators.Share("MatMul, CUDA", 1.0, 1.0),
        operators.Share("Pad, CPU", 0.5, 0.5),
        operators.Share("Mm, kernel", 0.5, 0.25),
    ]
    assert operators.read(early) == (0, 0.0, [])


def test_systems_are_those_of_the_provider(tmp_path):
    cpu = speed.systems(job(tmp_path))
    assert [s.name for s in cpu] == ["PyTorch", "fp32", "optimized", "fp16, emulated"]
    names = [variant.name for variant in variants("cuda")]
    assert names == ["fp32", "optimized", "fp16", "TF32"]
    recorded = [v for v in searching("cuda") if v.session["cuda_graphs"]]
    assert [v.bundle for v in recorded] == ["fp32", "fp16", "fp32"]
    assert all(v.warm_up == 3 for v in recorded)


class StandIn:
    """A worker without a process: its runs take what the test says."""

    def __init__(self, spec, run, log):
        self.system, self.runs = spec["system"], [0, 0]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def run(self, number):
        if self.system == "broken":
            raise PluginError("broken: out of memory")
        seconds = {"PyTorch": (2.0, 8.0), "fp32": (1.0, 2.0)}[self.system][number]
        # What is timed counts behind the runs that warm up, one of PyTorch, three here.
        warm_up = 1 if self.system == "PyTorch" else 3
        self.runs[number] += 1
        if self.runs[number] <= warm_up:
            seconds = 100.0 + self.runs[number]
        tokens = [[1, 2]] * (1, 4)[number]
        scores = [0.0] * len(tokens)
        return BatchDecode(seconds, {}, 100.0, tokens, scores, None)


def test_speed_is_told_beside_pytorchs_and_its_best(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "Worker", StandIn)
    monkeypatch.setattr(speed, "_spec", lambda job, s, system: {"system": system.name})
    given = job(tmp_path)
    inputs = {"1 utterance": tmp_path, "4 utterances": tmp_path}
    model = given.model("librispeech")
    setting = speed.Setting("beam", model, inputs, BatchDecode, {}, [10.0, 40.0])
    systems = [speed.System(name, "fp32") for name in ("PyTorch", "broken")]
    systems.append(speed.System("fp32", "fp32", warm_up=3))
    assert speed.measure(given, setting, systems) == ["smoke_sharp in broken"]
    rows = [json.loads(line) for line in given.rows.read_text().splitlines()]
    assert [(row["system"], row["input"]) for row in rows] == [
        ("PyTorch", "1 utterance"),
        ("PyTorch", "4 utterances"),
        ("broken", None),
        ("fp32", "1 utterance"),
        ("fp32", "4 utterances"),
    ]
    assert rows[2]["failed"] == "broken: out of memory"
    assert [row["RTFx"] for row in rows if "RTFx" in row] == [5.0, 5.0, 10.0, 20.0]
    assert [row["speed-up"] for row in rows[3:]] == [2.0, 4.0]
    assert [row["speed-up on its best"] for row in rows[3:]] == [2.0, 4.0]
    assert [row["tokens equal"] for row in rows[3:]] == [1.0, 1.0]
    assert rows[3]["GPU MiB"] is None
    assert {row["first run s"] for row in rows if "RTFx" in row} == {101.0}


def test_an_unknown_part_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--output_dir", str(tmp_path), "--only", "everything"])
    assert "invalid choice: 'everything'" in capsys.readouterr().err
