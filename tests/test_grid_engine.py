"""Stage 16 on a real Grid Engine of one node on this machine, by Kaldi's queue.pl."""

import subprocess
import time
from pathlib import Path

import pytest
from cluster_recipe import assert_decoded, make_cluster_recipe, start, use_espnet
from grid_engine import GridEngine, missing_programs

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        missing_programs(), reason=f"not installed: {', '.join(missing_programs())}"
    ),
]
LOGS = Path("exp/asr/tag_onnx_fp32/test/logdir")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with GridEngine(tmp_path_factory.mktemp("sge")) as started:
        yield started


@pytest.fixture(autouse=True)
def no_jobs(cluster):
    """None is left of a test that fails."""
    yield
    cluster.delete_jobs()
    cluster.wait_until_idle()


@pytest.fixture
def recipe(tiny, tmp_path, monkeypatch):
    """A recipe without a driver, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return make_cluster_recipe(tiny)


def use(options=""):
    """Give it ESPnet's driver and queue.pl with further options in cmd.sh."""
    arguments = use_espnet("sge", "queue.pl", options)
    # Where it has to make it, queue.pl waits 5 s for NFS.
    (LOGS / "q/sync").mkdir(parents=True)
    Path("exp/asr/onnx/timing/test/q/sync").mkdir(parents=True)
    Path("exp/asr/onnx/q/sync").mkdir(parents=True)
    return arguments


def wait_for_jobs(cluster, stage):
    """Wait until jobs of the stage run, and return what qstat says of their array."""
    end = time.monotonic() + 120
    while True:
        # Others come before, which tell what is left to do.
        jobs = [j for j in cluster.jobs() if j[2].startswith("asr_infere")]
        running = [job for job in jobs if job[4] == "r"]
        if running:
            break
        assert stage.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    said = cluster.run("qstat", "-j", running[0][0])
    rows = (line.partition(":") for line in said.splitlines())
    return {name: value.strip() for name, _, value in rows}


def end(stage):
    """All that the stage says until its end."""
    said, _ = stage.communicate(timeout=300)
    return said


def test_a_cluster_decodes(cluster, recipe):
    stage = start(cluster.env, [*use("--max-jobs-run 1"), "--onnx_threads", "2"])
    array = wait_for_jobs(cluster, stage)
    assert array["job-array tasks"] == "1-5:1"
    assert array["maximum concurrency"] == "1"
    assert array["parallel environment"] == "smp range: 2"
    # For each of the two threads
    assert array["hard resource_list"] == "arch=*64*,mem_free=512M,ram_free=512M"
    said = end(stage)
    assert stage.returncode == 0, said
    assert_decoded(recipe)
    assert "| fp32 |" in said


def test_a_killed_job_is_a_failed_one(cluster, recipe):
    """In the queue, where it would stay, queue.pl would wait for it for ever."""
    stage = start(cluster.env, use())
    while not cluster.kill_jobs("espnet_onnx_plugin.bin.asr_inference"):
        assert stage.poll() is None
        time.sleep(0.02)
    said = end(stage)
    assert stage.returncode == 1
    assert "a job was killed (code 137)" in said
    assert " of 5 job(s) failed, see " in said.splitlines()[-1]


@pytest.mark.parametrize(
    "option, why",
    [
        ("-l nix=1", 'unknown resource "nix"'),
        ("-q nix.q", 'job requests unknown queue "nix.q"'),
    ],
)
def test_a_job_that_the_cluster_refuses(cluster, recipe, option, why):
    stage = start(cluster.env, use(option))
    *_, reason, words, last = end(stage).splitlines()
    assert stage.returncode == 1
    assert reason.split() == "1 a job never started: it has no log".split()
    assert words.startswith("Unable to run job: ") and words.rstrip(".").endswith(why)
    assert last == f"./asr.sh: 1 of 1 job(s) failed, see {LOGS}/q/resume.log"


@pytest.mark.more
def test_a_job_that_is_deleted_is_lost(cluster, recipe):
    stage = start(cluster.env, use())
    wait_for_jobs(cluster, stage)
    cluster.delete_jobs()
    said = end(stage)
    assert stage.returncode == 1
    assert "a job was lost: its log has no end; run the stage again" in said


def test_words_reach_the_job_unchanged(cluster, tmp_path, monkeypatch):
    """All characters that onnx_check_words lets pass in names and in options."""
    monkeypatch.chdir(tmp_path)
    use()
    names = "a=b+c,d.e@f%g^h-i_j:k/l!"
    words = [names, "two  words", '"<eng><asr>"', "'#1;*?'"]
    command = ["utils/queue.pl", "log", "bash", "show.sh", *words]
    Path("show.sh").write_text('printf "%s\\n" "$@"')
    subprocess.run(command, env=cluster.env, check=True, timeout=60)
    lines = [s for s in Path("log").read_text().splitlines() if s[:2] != "# "]
    assert lines == [names, "two  words", "<eng><asr>", "#1;*?"]
