"""The stages in a made-up recipe of translation."""

import os
from functools import partial
from pathlib import Path

import pytest
from recipes import (
    assert_refused,
    driver_calls,
    make_recipe,
    module_calls,
    run_onnx,
)


@pytest.fixture
def st_recipe(tmp_path, monkeypatch):
    """A recipe of st.sh, with the commands that its scoring needs."""
    monkeypatch.chdir(tmp_path)
    make_recipe("st")
    for name in ("sacrebleu", "detokenizer.perl"):
        Path("bin").mkdir(exist_ok=True)
        Path("bin", name).write_text("#!/bin/sh\n")
        Path("bin", name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


run_st = partial(run_onnx, template="st")


def test_translations_go_through_all_three_stages(st_recipe):
    lms = ["--use_lm", "true", "--use_src_lm", "true", "--src_lm_exp", "exp/lm"]
    result = run_st("--stage", "14", *lms, "--onnx_variants", "fp32 int8")
    assert result.returncode == 0, result.stderr
    [export] = module_calls("export")
    assert export["task"] == ["st"]
    assert export["model_file"] == ["exp/st/m.pth"]
    assert export["lm_file"] == export["src_lm_file"] == ["exp/lm/lm.pth"]
    assert export["src_lm_train_config"] == ["exp/lm/config.yaml"]
    [quantize] = module_calls("quantize")
    assert quantize["calibration_text"] == ["dump/raw/org/valid/text.tc.en"]
    assert quantize["inference_args"] == [" --ngram_weight 0"]
    decode = module_calls("st_inference")[0]
    assert decode["model_dir"] == ["exp/st/onnx/fp32"]
    assert "lm_weight" not in decode and "asr_lm_weight" not in decode
    directory = Path("exp/st/tag_onnx_int8/test_a")
    assert Path(directory, "text").read_text().startswith("u1 1 2\nu2 1 2\n")
    assert Path(directory, "asr_text").read_text() == "u1 3\nu2 3\nu3 3\nu4 3\n"
    assert sum(line == "RAN 13" for call in driver_calls() for line in call) == 2
    assert all("--skip_stages" not in call for call in driver_calls())
    assert "| fp32 | 4 |" in Path("exp/st/onnx/RESULTS.md").read_text()
    # A bundle may hold what a run does not use, not the other way round.
    assert run_st("--stage", "16", "--onnx_variants", "fp32").returncode == 0
    assert module_calls("st_inference")[-1]["asr_lm_weight"] == ["0"]
    assert run_st("--stage", "14", "--stop_stage", "15").returncode == 0
    result = run_st("--stage", "16", "--use_src_lm", "true")
    assert_refused(result, "exp/st/onnx/fp32 has no language model", "--use_src_lm")


def test_what_pytorch_is_timed_with_is_translations_own(st_recipe):
    for name in ("test_a", "test_b"):
        directory = Path("exp/st/tag", name)
        directory.mkdir(parents=True)
        keys = [line.split()[0] for line in open(f"dump/raw/{name}/wav.scp")]
        for file in ("text", "token_int", "score"):
            (directory / file).write_text("".join(f"{k} 1 2\n" for k in keys))
    assert run_st("--stage", "14", "--onnx_variants", "fp32").returncode == 0
    reference = module_calls("reference")[0]
    assert reference["inference"] == ["st_inference"]
    assert reference["st_train_config"] == ["exp/st/config.yaml"]
    assert reference["st_model_file"] == ["exp/st/m.pth"]


def test_streams_have_their_own_command(st_recipe):
    result = run_st("--stage", "14", "--use_streaming", "true")
    assert result.returncode == 0, result.stderr
    call = module_calls("st_inference_streaming")[0]
    assert call["lm_weight"] == ["0"]
    assert "asr_lm_weight" not in call and "ngram_weight" not in call
    assert module_calls("st_inference") == []
    assert Path("exp/st/tag_onnx_int8_exact/test_a/stream").is_file()
    for option in ("use_ngram", "use_src_lm"):
        refused = run_st("--use_streaming", "true", f"--{option}", "true")
        assert_refused(refused, f"--{option} false")


@pytest.mark.parametrize("name", ["sacrebleu", "detokenizer.perl"])
def test_a_missing_command_of_the_scoring_is_told(st_recipe, monkeypatch, name):
    Path("bin", name).unlink()
    kept = [d for d in os.environ["PATH"].split(":") if not Path(d, name).exists()]
    monkeypatch.setenv("PATH", ":".join(kept))
    assert_refused(run_st("--stage", "14"), f"{name} is missing", "install")
    assert module_calls() == []
    assert run_st("--stage", "14", "--skip_eval", "true").returncode == 0


def test_a_source_n_gram_model_is_refused(st_recipe):
    assert_refused(run_st("--use_src_ngram", "true"), "--use_src_ngram true")
