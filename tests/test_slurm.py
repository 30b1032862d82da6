"""Stage 16 on a cluster: a real Slurm of three nodes on this machine."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from cluster_recipe import assert_decoded, make_cluster_recipe, start, use_espnet
from recipes import ROOT, driver
from slurm import Slurm, missing_programs

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        missing_programs(), reason=f"not installed: {', '.join(missing_programs())}"
    ),
]
DEMO = ROOT / "egs2_stage/demo/asr1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Nodes that begin their jobs again elsewhere soon after they have died."""
    with Slurm(tmp_path_factory.mktemp("slurm"), nodes=3) as started:
        yield started


@pytest.fixture
def recipe(tiny, tmp_path, monkeypatch):
    """A recipe without a driver, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return make_cluster_recipe(tiny)


def use_demo(options=""):
    """Give it the demo's slurm.pl and a made-up driver, which scores nothing."""
    Path("asr.sh").symlink_to(ROOT / "egs2_stage/asr.sh")
    for name in ("path.sh", "conf", "utils"):
        Path(name).symlink_to(DEMO / name)
    Path("asr.espnet.sh").write_text(driver("asr"))
    return ["--decode_cmd", f"utils/slurm.pl {options}"]


def wait_for_jobs(cluster, stage, node):
    """Wait until jobs of the stage run on a node, and return what all jobs ask for."""
    end = time.monotonic() + 60
    # Others come before, which tell what is left to do.
    while "asr_inference" not in cluster.run("squeue", "-h", "-w", node, "-o", "%j"):
        assert stage.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return set(cluster.run("squeue", "-h", "-r", "-o", "%m %C %P").splitlines())


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(use_demo, marks=pytest.mark.more),
        lambda: use_espnet("slurm", "slurm.pl"),
    ],
    ids=["demo", "espnet"],
)
def test_a_cluster_decodes(cluster, recipe, use):
    stage = start(cluster.env, use())
    assert wait_for_jobs(cluster, stage, "node1") == {"1G 1 cpu"}
    said, _ = stage.communicate(timeout=300)
    assert stage.returncode == 0, said
    assert_decoded(recipe)
    assert "| fp32 |" in said
    cluster.wait_until_idle()


def test_jobs_of_a_node_that_dies_begin_again_elsewhere(cluster, recipe):
    stage = start(cluster.env, [*use_demo(), "--onnx_threads", "2"])
    assert wait_for_jobs(cluster, stage, "node2") == {"512M 2 cpu"}
    cluster.kill_node("node2")
    said, _ = stage.communicate(timeout=300)
    assert stage.returncode == 0, said
    assert_decoded(recipe)
    assert cluster.states()["node2"].startswith("down")
    cluster.start_node("node2")
    cluster.wait_until_idle()


def test_slurms_own_words_are_shown(cluster, recipe):
    # Slurm looks once a second. A quick job would have found by then, by itself, that
    # there is no room for it.
    hungry = Path("hungry_python").resolve()
    hungry.write_text(
        "#!/usr/bin/env bash\n"
        'if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then\n'
        "    much=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 60\n"
        "fi\n"
        f'exec {sys.executable} "$@"\n'
    )
    hungry.chmod(0o755)
    stage = start(cluster.env, [*use_demo("--mem 20M"), "--python", str(hungry)])
    said, _ = stage.communicate(timeout=300)
    assert stage.returncode == 1
    assert "5 a job was lost: its log has no end" in said
    assert "exceeded memory limit" in said
    assert said.splitlines()[-1].startswith("./asr.sh: 5 of 5 job(s) failed")
    cluster.wait_until_idle()


def test_an_interrupt_ends_the_jobs(cluster, recipe):
    stage = start(cluster.env, use_demo("--max-jobs-run 1"))
    wait_for_jobs(cluster, stage, "node1")
    assert cluster.jobs_on("node1") == 1  # of five, and there are two processors
    os.killpg(stage.pid, signal.SIGINT)
    stage.communicate(timeout=60)
    assert stage.returncode != 0
    cluster.wait_until_idle()
    assert cluster.run("squeue", "-h") == ""
