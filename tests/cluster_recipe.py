"""Stage 16 of a recipe of 30 utterances, for tests that run it on a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import ROOT

ARGS = f"""--onnx true --stage 16 --onnx_variants fp32 --onnx_nj 5
--train_set train --valid_set valid --test_sets test --token_type char --use_lm false
--asr_exp exp/asr --inference_asr_model valid.acc.ave.pth --inference_tag tag
--python {sys.executable}""".split()
SEARCH = ["--inference_args", "--beam_size 2 --maxlenratio -5"]


def make_cluster_recipe(tiny):
    """Make a recipe without a driver: a model, its bundle, and 30 utterances, of which
    the ids are returned.
    """
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


def use_espnet(backend, script, options=""):
    """Give it ESPnet's driver and its job script, as its cmd.sh does for a backend."""
    if "ESPNET_ROOT" not in os.environ:
        pytest.skip(f"ESPNET_ROOT, a checkout of ESPnet with its {script}, is not set")
    template = Path(os.environ["ESPNET_ROOT"]).resolve() / "egs2/TEMPLATE/asr1"
    for name in ("asr.sh", "utils", "scripts", "pyscripts", "conf"):
        Path(name).symlink_to(template / name)
    commands = (template / "cmd.sh").read_text()
    assert commands.count("cmd_backend='local'") == 1
    commands = commands.replace("='local'", f"='{backend}'")
    assert commands.count(f'decode_cmd="{script}"') == 1
    commands = commands.replace(f'"{script}"', f'"{script} {options}"')
    Path("cmd.sh").write_text(commands)
    Path("path.sh").write_text(
        'export PATH="$PWD/utils:$PATH" LC_ALL=C OMP_NUM_THREADS=1\n'
    )
    install = ROOT / "scripts/install_recipe.sh"
    subprocess.run([install, "."], check=True, capture_output=True)
    return []


def start(env, args):
    """Start stage 16; its standard output and error are one stream."""
    return subprocess.Popen(
        ["./asr.sh", *ARGS, *SEARCH, *args],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def assert_decoded(keys):
    """Each utterance is there once, with the text of all copies of its recording."""
    lines = Path("exp/asr/tag_onnx_fp32/test/text").read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == keys
    texts = [line.partition(" ")[2] for line in lines]
    assert texts == [texts[i % 4] for i in range(len(keys))] and len(set(texts)) > 1
