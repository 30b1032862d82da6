"""Stage 16 on a cluster: a real Slurm of three nodes on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipes import ROOT, driver
from slurm import Slurm, missing_programs

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        missing_programs(), reason=f"not installed: {', '.join(missing_programs())}"
    ),
]
DEMO = ROOT / "egs2_stage/demo/asr1"
ARGS = f"""--onnx true --stage 16 --onnx_variants fp32 --onnx_nj 5
--train_set train --valid_set valid --test_sets test --token_type char --use_lm false
--asr_exp exp/asr --inference_asr_model valid.acc.ave.pth --inference_tag tag
--python {sys.executable}""".split()
SEARCH = ["--inference_args", "--beam_size 2 --maxlenratio -5"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Nodes that begin their jobs again elsewhere soon after they have died."""
    with Slurm(tmp_path_factory.mktemp("slurm"), nodes=3) as started:
        yield started


@pytest.fixture
def recipe(tiny, tmp_path, monkeypatch):
    """A recipe without a driver: a model, its bundle, and 30 utterances."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny["bundle"], "exp/asr/onnx/fp32")
    shutil.copy(tiny["asr"]["file"], "exp/asr/valid.acc.ave.pth")
    data = Path("dump/raw/test")
    data.mkdir(parents=True)
    waves = [line.split()[1] for line in open(tiny["data"] / "wav.scp")]
    keys = [f"utt{i:02d}" for i in range(30)]
    rows = {
        "wav.scp": [waves[i % len(waves)] for i in range(30)],
        "text": ["some words"] * 30,
        "utt2spk": keys,
        "spk2utt": keys,
    }
    for name, column in rows.items():
        lines = [f"{key} {value}\n" for key, value in zip(keys, column)]
        (data / name).write_text("".join(lines))
    (data / "feats_type").write_text("raw\n")
    (data / "audio_format").write_text("wav\n")
    return keys


def use_demo(options=""):
    """Give it the demo's slurm.pl and a made-up driver, which scores nothing."""
    Path("asr.sh").symlink_to(ROOT / "egs2_stage/asr.sh")
    for name in ("path.sh", "conf", "utils"):
        Path(name).symlink_to(DEMO / name)
    Path("asr.espnet.sh").write_text(driver("asr"))
    return ["--decode_cmd", f"utils/slurm.pl {options}"]


def use_espnet():
    """Give it ESPnet's slurm.pl and driver, with cmd_backend=slurm."""
    if "ESPNET_ROOT" not in os.environ:
        pytest.skip("ESPNET_ROOT is not set: slurm.pl is in a checkout of ESPnet")
    template = Path(os.environ["ESPNET_ROOT"]).resolve() / "egs2/TEMPLATE/asr1"
    for name in ("asr.sh", "utils", "scripts", "pyscripts", "conf"):
        Path(name).symlink_to(template / name)
    commands = (template / "cmd.sh").read_text()
    assert commands.count("cmd_backend='local'") == 1
    Path("cmd.sh").write_text(commands.replace("='local'", "='slurm'"))
    Path("path.sh").write_text(
        'export PATH="$PWD/utils:$PATH" LC_ALL=C OMP_NUM_THREADS=1\n'
    )
    script = ROOT / "scripts/install_recipe.sh"
    subprocess.run([script, "."], check=True, capture_output=True)
    return []


def start(cluster, args):
    """Start stage 16; its standard output and error are one stream."""
    return subprocess.Popen(
        ["./asr.sh", *ARGS, *SEARCH, *args],
        env=cluster.env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for_jobs(cluster, stage, node):
    """Wait until jobs of the stage run on a node, and return what all jobs ask for."""
    end = time.monotonic() + 60
    # Others come before, which tell what is left to do.
    while "asr_inference" not in cluster.run("squeue", "-h", "-w", node, "-o", "%j"):
        assert stage.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return set(cluster.run("squeue", "-h", "-r", "-o", "%m %C %P").splitlines())


def assert_decoded(keys):
    """Each utterance is there once, with the text of all copies of its recording."""
    lines = Path("exp/asr/tag_onnx_fp32/test/text").read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == keys
    texts = [line.partition(" ")[2] for line in lines]
    assert texts == [texts[i % 4] for i in range(30)] and len(set(texts)) > 1


@pytest.mark.parametrize(
    "use", [pytest.param(use_demo, marks=pytest.mark.more), use_espnet]
)
def test_a_cluster_decodes(cluster, recipe, use):
    stage = start(cluster, use())
    assert wait_for_jobs(cluster, stage, "node1") == {"1G 1 cpu"}
    said, _ = stage.communicate(timeout=300)
    assert stage.returncode == 0, said
    assert_decoded(recipe)
    assert "| fp32 |" in said
    cluster.wait_until_idle()


def test_jobs_of_a_node_that_dies_begin_again_elsewhere(cluster, recipe):
    stage = start(cluster, [*use_demo(), "--onnx_threads", "2"])
    assert wait_for_jobs(cluster, stage, "node2") == {"512M 2 cpu"}
    cluster.kill_node("node2")
    said, _ = stage.communicate(timeout=300)
    assert stage.returncode == 0, said
    assert_decoded(recipe)
    assert cluster.states()["node2"].startswith("down")
    cluster.start_node("node2")
    cluster.wait_until_idle()


def test_slurms_own_words_are_shown(cluster, recipe):
    stage = start(cluster, use_demo("--mem 20M"))
    said, _ = stage.communicate(timeout=300)
    assert stage.returncode == 1
    assert "5 a job was lost: its log has no end" in said
    assert "exceeded memory limit" in said
    assert said.splitlines()[-1].startswith("./asr.sh: 5 of 5 job(s) failed")
    cluster.wait_until_idle()


def test_an_interrupt_ends_the_jobs(cluster, recipe):
    stage = start(cluster, use_demo("--max-jobs-run 1"))
    wait_for_jobs(cluster, stage, "node1")
    assert cluster.jobs_on("node1") == 1  # of five, and there are two processors
    os.killpg(stage.pid, signal.SIGINT)
    stage.communicate(timeout=60)
    assert stage.returncode != 0
    cluster.wait_until_idle()
    assert cluster.run("squeue", "-h") == ""
