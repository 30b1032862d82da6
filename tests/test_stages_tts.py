"""The stages in a made-up recipe of speech synthesis."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import soundfile
from recipes import (
    ROOT,
    assert_refused,
    driver_calls,
    make_data,
    make_recipe,
    module_calls,
    run_onnx,
)


def make_torch_speech(name, keys):
    """At a rate at which nothing is measured."""
    directory = Path("exp/tts/tag", name, "wav")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for key in keys:
        soundfile.write(directory / f"{key}.wav", [0.0] * 9, 8000)
    (directory / "wav.scp").touch()


@pytest.fixture
def tts_recipe(tmp_path, monkeypatch):
    """A recipe of tts.sh, decoded by PyTorch."""
    monkeypatch.chdir(tmp_path)
    make_recipe("tts")
    make_torch_speech("test_a", ["u1", "u2", "u3", "u4"])
    make_torch_speech("test_b", ["u1"])
    Path("v.pkl").touch()
    Path("exp/asr").mkdir()
    Path("exp/asr/manifest.yaml").touch()
    return tmp_path


run_tts = partial(run_onnx, template="tts")


def test_speech_goes_through_all_three_stages(tts_recipe):
    result = run_tts(
        *("--stage", "14", "--onnx_variants", "fp32 int8", "--vocoder_file", "v.pkl"),
        *("--use_spk_embed", "true", "--use_sid", "true", "--use_lid", "true"),
        *("--inference_args", "--seed 5 --vocoder_config v.yml --threshold 0.4"),
    )
    assert result.returncode == 0, result.stderr
    model = {
        "train_config": ["exp/tts/config.yaml"],
        "model_file": ["exp/tts/m.pth"],
        "vocoder_file": ["v.pkl"],
        "vocoder_config": ["v.yml"],
    }
    assert module_calls("export") == [
        {
            "task": ["tts"],
            **model,
            "config": [str(ROOT / "conf/export.yaml")],
            "output_dir": ["exp/tts/onnx/fp32"],
        }
    ]

    def data(dset, directory):
        return [
            f"{directory}/text,text,text",
            f"{directory}/wav.scp,speech,sound",
            f"dump/embed/{dset}/embed.scp,spembs,kaldi_ark",
            f"{directory}/utt2sid,sids,text_int",
            f"{directory}/utt2lid,lids,text_int",
        ]

    [quantize] = module_calls("quantize")
    names = ("data_path_and_name_and_type", "inference_args")
    data_args, search = [quantize[name] for name in names]
    assert data_args == data("valid", "dump/raw/org/valid")
    assert search[0].split() == ["--seed", "5", "--threshold", "0.4"]
    assert not any(name.startswith("calibration") for name in quantize)
    assert module_calls("tts_inference")[0] == {
        "model_dir": ["exp/tts/onnx/fp32"],
        "provider": ["cpu"],
        "num_threads": ["1"],
        "seed": ["5"],
        "threshold": ["0.4"],
        "data_path_and_name_and_type": data("test_a", "dump/raw/test_a"),
        "key_file": ["exp/tts/tag_onnx_fp32/test_a/log/run/keys.1.scp"],
        "batch_size": ["1"],
        "max_failures": ["4"],
        "earlier_dir": ["exp/tts/tag_onnx_fp32/test_a/log/output"],
        "output_dir": ["exp/tts/tag_onnx_fp32/test_a/log/run/output.1"],
    }
    reference = module_calls("reference")[0]
    assert reference["inference"] == ["tts_inference"]
    assert reference.items() >= model.items() and reference["seed"] == ["5"]
    [report] = module_calls("report")
    assert report["data_dir"] == ["dump/raw"] and "asr_model_dir" not in report
    assert report["reference"] == ["PyTorch", "exp/tts/tag", "exp/tts/m.pth", "v.pkl"]
    assert "| system | utterances | RTF | speed-up |" in result.stdout
    assert "| int8 | 4 | 0.500 | 4.00x |" in result.stdout
    # ESPnet's scoring is for its own decode.
    assert all("RAN" not in line for call in driver_calls() for line in call)


def test_what_is_spoken_lies_where_espnet_puts_it(tts_recipe):
    args = ("--stage", "14", "--onnx_variants", "fp32")
    assert run_tts(*args).returncode == 0
    directory = Path("exp/tts/tag_onnx_fp32/test_a")

    def written():
        names = (p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
        return sorted(str(n) for n in names if n.parts[0] not in ("log", "onnx_timing"))

    utterances = ["u1", "u2", "u3", "u4"]
    expected = [
        *(f"att_ws/{key}.png" for key in utterances),
        *("durations", "feats_type", "norm/feats.scp", "onnx_decode.json"),
        "speech_shape",
        *(f"wav/{key}.wav" for key in utterances),
        "wav/wav.scp",
    ]
    assert written() == sorted(expected)
    for name in ("durations", "norm/feats.scp", "speech_shape"):
        lines = (directory / name).read_text().splitlines()
        assert [line.split()[0] for line in lines] == utterances
    scp = [line.split() for line in open(directory / "wav/wav.scp")]
    assert scp == [[key, f"{directory}/wav/{key}.wav"] for key in utterances]
    assert [len(soundfile.read(path)[0]) for _, path in scp] == [1, 2, 3, 4]
    # Nothing of an earlier run stays.
    make_data("test_a", ["u1"])
    make_torch_speech("test_a", ["u1"])
    assert run_tts(*args).returncode == 0
    assert written().count("wav/u1.wav") == 1 and "wav/u2.wav" not in written()


@pytest.mark.parametrize("probs", [False, True])
def test_a_teacher_says_durations_and_maybe_features(tts_recipe, probs):
    if probs:
        Path("teacher/train/probs").mkdir(parents=True)
    args = ("--stage", "14", "--onnx_variants", "fp32", "--teacher_dumpdir", "teacher")
    assert run_tts(*args).returncode == 0
    assert module_calls("tts_inference")[0]["data_path_and_name_and_type"] == [
        "dump/raw/test_a/text,text,text",
        "teacher/test_a/durations,durations,text_int",
        (
            "teacher/test_a/denorm/feats.scp,speech,npy"
            if probs
            else "dump/raw/test_a/wav.scp,speech,sound"
        ),
    ]


def test_what_is_not_spoken_is_an_error(tts_recipe):
    result = run_tts("--stage", "14", env={"LOSE": "one"})
    assert result.returncode == 1
    assert "wav/wav.scp lacks 'u1'" in result.stderr


def test_what_espnets_scoring_lacks_is_told_before_anything_runs(tts_recipe):
    lacks = {"env": {"NO_MODULES": "versa"}}
    assert_refused(run_tts("--stage", "9", **lacks), "versa", "--skip_scoring true")
    assert module_calls() == []
    for args in (("--stage", "10"), ("--stop_stage", "8"), ("--skip_scoring", "true")):
        result = run_tts("--stop_stage", "13", *args, **lacks)
        assert result.returncode == 0, result.stderr


def test_what_is_spoken_is_heard_by_an_asr_model(tts_recipe):
    args = ("--stage", "14", "--onnx_variants", "fp32")
    result = run_tts(*args, "--onnx_asr_model_dir", "exp/asr")
    assert module_calls("report")[0]["asr_model_dir"] == ["exp/asr"]
    assert result.returncode == 1 and "exp/asr/manifest.yaml" in result.stderr
    result = run_tts("--stage", "14", env={"NO_MODULES": "pyworld"})
    assert_refused(result, "pyworld")


def test_an_asr_model_that_is_not_there_is_refused(tts_recipe):
    result = run_tts("--onnx_asr_model_dir", "exp/tts")
    assert_refused(result, "--onnx_asr_model_dir", "no model in 'exp/tts'")
