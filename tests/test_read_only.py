"""Disks that cannot be written: one line says so, and what only reads goes on."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from recipes import make_data, make_recipe, run_onnx

pytestmark = pytest.mark.faults

REMEDY = "give a directory that can be written, or make it one"


def files(directory):
    return sorted(str(path) for path in directory.rglob("*"))


@pytest.fixture
def read_only(disk, tiny):
    """A disk that cannot be written, with a bundle and an empty directory."""
    where, remount = disk
    assert remount("size=8m") == 0
    shutil.copytree(tiny["bundle"], where / "fp32")
    (where / "exp").mkdir()
    assert remount("ro") == 0
    return where


def audio(tiny):
    scp = tiny["data"] / "wav.scp"
    return f"--data_path_and_name_and_type {scp},speech,sound"


def asr(tiny, model, out):
    return f"asr_inference --model_dir {model} --output_dir {out} {audio(tiny)}"


@pytest.fixture
def command(tiny, read_only, tmp_path):
    """Each command with a place on that disk to write to."""
    model, scp = tiny["bundle"], tiny["data"] / "wav.scp"
    decode = asr(tiny, model, read_only / "exp/dec/logdir") + f" --key_file {scp}"
    for name in ("score", "text", "token", "token_int"):
        text = "utt0 -1.0\n" if name == "score" else "utt0 1 2\n"
        (tmp_path / "decoded/set").mkdir(parents=True, exist_ok=True)
        (tmp_path / "decoded/set" / name).write_text(text)
    decoded = f"{tmp_path / 'decoded'}"
    return {
        "export": f"export --train_config {tiny['asr']['config']} "
        f"--model_file {tiny['asr']['file']} --output_dir {read_only}/exp/fp32",
        "export_anew": f"export --train_config {tiny['asr']['config']} "
        f"--model_file {tiny['asr']['file']} --output_dir {read_only}/fp32",
        "optimize": f"optimize --model_dir {model} --output_dir {read_only}/exp/o",
        "quantize": f"quantize --model_dir {model} --output_dir {read_only}/exp/q",
        "asr_inference": asr(tiny, model, read_only / "exp" / "out"),
        "deep": asr(tiny, model, read_only / "exp" / "new" / "out"),
        "sample": f"sample --scp {scp},sound --output_file {read_only}/exp/keys",
        "report": f"report --system a {decoded} --reference b {decoded} "
        f"--test_sets set --output_dir {read_only}/exp",
        "resume": f"resume --decode_dir {read_only}/exp --todo {read_only}/exp/todo "
        f"{decode}",
        "merge": f"merge --decode_dir {read_only}/exp {decode}",
    }


NAMES = "export export_anew optimize quantize asr_inference deep sample report resume"


@pytest.mark.parametrize("name", [*NAMES.split(), "merge"])
def test_a_command_says_that_it_cannot_write(command, read_only, capsys, name):
    before = files(read_only)
    module, *args = command[name].split()
    with pytest.raises(SystemExit) as e:
        importlib.import_module(f"espnet_onnx_plugin.bin.{module}").main(args)
    assert e.value.code == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    pattern = (
        rf"{module}: error: {read_only}(/\w[\w.]*)*: Read-only file system; {REMEDY}"
    )
    assert len(lines) == 1 and re.fullmatch(pattern, lines[0]), lines
    assert files(read_only) == before


def test_a_bundle_that_cannot_be_written_decodes(read_only, tiny, tmp_path):
    texts = []
    for number, model in enumerate((tiny["bundle"], read_only / "fp32")):
        out = tmp_path / f"out{number}"
        module, *args = asr(tiny, model, out).split()
        importlib.import_module(f"espnet_onnx_plugin.bin.{module}").main(args)
        texts.append((out / "1best_recog" / "token").read_text())
    assert texts[0] == texts[1]


STAGE = ["--onnx_variants", "fp32", "--test_sets", "test_a"]


@pytest.fixture
def recipe(tmp_path, monkeypatch, tiny, disk):
    """A made-up recipe on a real disk, and what makes that one read-only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALLY", "resume asr_inference merge sample report")
    make_recipe("asr")
    make_data("test_a", ["utt0"], audio_format="wav")
    wav = f"utt0 {tiny['data'] / 'utt0.wav'}\n"
    Path("dump/raw/test_a/wav.scp").write_text(wav)
    where, remount = disk
    assert remount("size=8m") == 0
    return where, lambda: remount("ro")


def refused(result, place):
    assert result.returncode == 1
    message = f"{place} cannot be written: free some space, or give a directory that"
    assert result.stderr == f"./asr.sh: {message} can be\n"


@pytest.mark.parametrize("stage", ["14", "15", "16"])
def test_stages_with_models_on_a_disk_that_cannot_be_written(recipe, tiny, stage):
    where, make_read_only = recipe
    shutil.copytree(tiny["bundle"], where / "onnx" / "fp32")
    make_read_only()
    before = files(where)
    for name in ("onnx", "other"):
        args = [*STAGE, "--stage", stage, "--onnx_dir", f"disk/{name}"]
        refused(run_onnx(*args), f"disk/{name}")
    assert files(where) == before


def test_stage_16_where_decodes_cannot_be_written(recipe, tiny):
    where, make_read_only = recipe
    (where / "tag_onnx_fp32").mkdir()
    shutil.rmtree("exp/asr")
    (where / "m.pth").write_text("model")
    Path("exp/asr").symlink_to(where)
    shutil.copytree(tiny["bundle"], "onnx/fp32")
    make_read_only()
    before = files(where)
    refused(run_onnx(*STAGE, "--stage", "16", "--onnx_dir", "onnx"), "exp/asr")
    assert files(where) == before


def test_stage_16_with_a_model_on_a_disk_that_cannot_be_written(recipe, tiny):
    where, make_read_only = recipe
    shutil.copytree(tiny["bundle"], where / "fp32")
    Path("onnx").mkdir()
    Path("onnx/fp32").symlink_to(where / "fp32")
    make_read_only()
    result = run_onnx(*STAGE, "--stage", "16", "--onnx_dir", "onnx")
    assert result.returncode == 0, result.stderr
    assert Path("onnx/RESULTS.md").exists()
