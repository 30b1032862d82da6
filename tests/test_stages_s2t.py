"""The stages in a made-up recipe of Whisper-style models."""

from functools import partial
from pathlib import Path

import pytest
from recipes import assert_refused, driver_calls, make_recipe, module_calls, run_onnx


@pytest.fixture
def s2t_recipe(tmp_path, monkeypatch):
    """A recipe of s2t.sh."""
    monkeypatch.chdir(tmp_path)
    make_recipe("s2t")
    return tmp_path


run_s2t = partial(run_onnx, template="s2t")


def test_whisper_style_models_go_through_all_three_stages(s2t_recipe):
    result = run_s2t("--stage", "14", "--onnx_variants", "fp32 int8")
    assert result.returncode == 0, result.stderr
    [export] = module_calls("export")
    assert export["task"] == ["s2t"]
    assert export["model_file"] == ["exp/s2t/m.pth"]
    directory = Path("exp/s2t/tag_onnx_int8/test_a")
    assert len(Path(directory, "text").read_text().splitlines()) == 4
    # What ESPnet scores.
    plain = Path(directory, "text_nospecial").read_text()
    assert plain == "u1 1\nu2 1\nu3 1\nu4 1\n"
    assert sum(line == "RAN 13" for call in driver_calls() for line in call) == 2
    assert "| fp32 | 4 |" in Path("exp/s2t/onnx/RESULTS.md").read_text()


@pytest.mark.parametrize(
    "ctc, task, command",
    [
        ("false", "s2t", "s2t_inference"),
        ("true", "s2t_ctc", "s2t_inference_ctc"),
    ],
)
def test_the_kind_of_model_chooses_task_and_command(s2t_recipe, ctc, task, command):
    for name in ("test_a", "test_b"):
        directory = Path("exp/s2t/tag", name)
        directory.mkdir(parents=True)
        keys = [line.split()[0] for line in open(f"dump/raw/{name}/wav.scp")]
        # A greedy search has no scores.
        for file in ("text", "token_int", *(["score"] if ctc == "false" else [])):
            (directory / file).write_text("".join(f"{k} 1 2\n" for k in keys))
    args = ("--stage", "14", "--s2t_ctc", ctc, "--onnx_variants", "fp32")
    result = run_s2t(*args)
    assert result.returncode == 0, result.stderr
    assert module_calls("export")[0]["task"] == [task]
    assert module_calls(command)[0]["model_dir"] == ["exp/s2t/onnx/fp32"]
    reference = module_calls("reference")[0]
    assert reference["inference"] == [command]
    assert reference["s2t_train_config"] == ["exp/s2t/config.yaml"]
    assert reference["s2t_model_file"] == ["exp/s2t/m.pth"]


@pytest.mark.parametrize("option", [("--use_streaming", "true"), ("--num_inf", "2")])
def test_streaming_and_speakers_of_whisper_style_models_are_refused(s2t_recipe, option):
    assert_refused(run_s2t(*option), " ".join(option))
