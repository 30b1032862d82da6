"""The stages in made-up recipes of diarization with separation."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipes import (
    ROOT,
    assert_refused,
    driver_calls,
    make_recipe,
    module_calls,
    run_onnx,
)

SETS = {"test_a": ["u1", "u2", "u3", "u4"], "test_b": ["u1"]}
MODEL = Path("exp/enh_diar")

run_diar = partial(run_onnx, template="enh_diar")
FP32 = ("--stage", "14", "--onnx_variants", "fp32")


def make_torch_decode(fewer=()):
    """Write what the made-up python does; ``fewer`` have one speaker only."""
    for name, keys in SETS.items():
        directory = MODEL / f"diarized_enhanced_{name}"
        directory.mkdir(parents=True)
        lines = {"diarize": [], "spk1": [], "spk2": []}
        for key in keys:
            number = 1 if key in fewer else 2
            path = (directory / f"{key}.npy").resolve()
            np.save(path, np.eye(4, number))
            lines["diarize"].append(f"{key} {path}\n")
            for n in range(1, number + 1):
                path = (directory / f"{n}_{key}.wav").resolve()
                wave = [514 * i + 256 for i in range(50)]
                soundfile.write(path, [w / 2**15 for w in wave], 8000, "PCM_16")
                lines[f"spk{n}"].append(f"{key} {path}\n")
        for scp, content in lines.items():
            (directory / f"{scp}.scp").write_text("".join(content))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of enh_diar.sh."""
    monkeypatch.chdir(tmp_path)
    make_recipe("enh_diar")
    return tmp_path


def test_recordings_go_through_all_three_stages(recipe):
    make_torch_decode()
    Path("decode.yaml").write_text("enh_s2t_task: true\nnum_spk: 2\n")
    config = ("--inference_config", "decode.yaml")
    result = run_diar("--stage", "14", "--onnx_variants", "fp32 int8", *config)
    assert result.returncode == 0, result.stderr
    model = dict(train_config=[f"{MODEL}/config.yaml"], model_file=[f"{MODEL}/m.pth"])
    assert module_calls("export") == [
        {
            "task": ["enh_diar"],
            **model,
            "parity_scp": ["dump/raw/org/valid/wav.scp,sound"],
            "config": [str(ROOT / "conf/export.yaml")],
            "output_dir": [f"{MODEL}/onnx/fp32"],
        }
    ]
    [quantize] = module_calls("quantize")
    assert quantize["calibration_scp"] == ["dump/raw/org/valid/wav.scp,sound"]
    assert "calibration_text" not in quantize
    assert quantize["inference_config"] == ["decode.yaml"]
    assert quantize["inference_args"][0].split() == ["--enh_s2t_task", "true"]
    decode = module_calls("diar_inference")[0]
    directory = f"{MODEL}/tag_onnx_fp32/diarized_enhanced_test_a"
    assert decode == {
        "model_dir": [f"{MODEL}/onnx/fp32"],
        "provider": ["cpu"],
        "num_threads": ["1"],
        "fs": ["8k"],
        "config": ["decode.yaml"],
        "enh_s2t_task": ["true"],
        "data_path_and_name_and_type": ["dump/raw/test_a/wav.scp,speech,sound"],
        "key_file": [f"{directory}/logdir/run/keys.1.scp"],
        "batch_size": ["1"],
        "max_failures": ["4"],
        "earlier_dir": [f"{directory}/logdir/output"],
        "output_dir": [f"{directory}/logdir/run/output.1"],
    }
    reference = module_calls("reference")[0]
    assert reference.items() >= model.items()
    assert reference["inference"] == ["diar_inference"]
    assert reference["enh_s2t_task"] == ["true"] and reference["fs"] == ["8k"]
    scoring = [call[-6:] for call in driver_calls() if "7" in call]
    assert scoring == [
        ["--diar_tag", f"diar/tag_onnx_{v}", "--stage", "7", "--stop_stage", "8"]
        for v in ("fp32", "int8")
    ]
    [report] = module_calls("report")
    assert report["mixture_dir"] == ["dump/raw"] and "diarization" in report
    first, *_ = report["reference"][1:]
    assert first == f"{MODEL}/diarized_enhanced_{{test_set}}"
    header = next(s for s in result.stdout.splitlines() if s.startswith("| system"))
    assert header.startswith("| system | DER % | same activities % | SI-SNR dB |")
    assert "| int8 | 8.25 | 100.00 | 7.25 | 4 | inf | inf |" in result.stdout
    assert "| int8 | 8.25 | 100.00 | 7.25 | 1 | inf | inf |" in result.stdout


def test_speakers_may_be_counted(recipe):
    """Recordings of fewer speakers are no error, and are not compared as waveforms."""
    make_torch_decode(fewer=("u2", "u4"))
    stale = MODEL / "tag_onnx_fp32/diarized_enhanced_test_a/scoring/result_sdr.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("1.0\n")
    result = run_diar(*FP32)
    assert result.returncode == 0, result.stderr
    assert "| fp32 | 8.25 | 75.00 | 7.25 | 4 | inf | inf |" in result.stdout
    assert not stale.exists()


def test_the_stage_can_be_run_again(recipe):
    make_torch_decode()
    assert run_diar(*FP32).returncode == 0
    table = (MODEL / "onnx/RESULTS.md").read_text()
    again = run_diar("--stage", "16", *FP32[2:])
    assert again.returncode == 0, again.stderr
    assert (MODEL / "onnx/RESULTS.md").read_text() == table


def test_what_is_not_diarized_is_an_error(recipe):
    result = run_diar(*FP32, env={"LOSE": "one"})
    assert result.returncode == 1
    assert "diarize.scp lacks 'u1'" in result.stderr


def test_what_cannot_be_done_is_told_before_anything_runs(recipe):
    lacks = {"env": {"NO_MODULES": "pystoi"}}
    for args in (("--stage", "8"), ("--stage", "14")):
        assert_refused(run_diar(*args, **lacks), "lacks pystoi", "mir_eval==0.8.*")
    assert_refused(run_diar("--download_model", "x"), "--download_model")
    assert module_calls() == []
    args = ("--stage", "14", "--stop_stage", "15", "--onnx_variants", "fp32")
    assert run_diar(*args, **lacks).returncode == 0
