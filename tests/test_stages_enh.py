"""The stages in made-up recipes of enhancement, separation and extraction."""

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

SETS = {"valid": ["v1"], "test_a": ["u1", "u2", "u3", "u4"], "test_b": ["u1"]}


def make_torch_decode(speakers=1, tag="exp/enh/tag"):
    """The waveforms that the made-up python writes too."""
    for name, keys in SETS.items():
        directory = Path(f"{tag}_{name}")
        directory.mkdir(parents=True, exist_ok=True)
        for n in range(1, speakers + 1):
            lines = []
            for key in keys:
                path = (directory / f"{n}_{key}.wav").resolve()
                wave = [514 * i + 256 for i in range(50)]
                soundfile.write(path, [w / 2**15 for w in wave], 8000, "PCM_16")
                lines.append(f"{key} {path}\n")
            (directory / f"spk{n}.scp").write_text("".join(lines))


def write_decode(directory, keys, speakers=1):
    """PyTorch's words of each speaker, as the made-up python finds them."""
    directory.mkdir(parents=True)
    for n in range(1, speakers + 1):
        for name in ("text", "token_int", "score"):
            lines = "".join(f"{key} 1 2\n" for key in keys)
            (directory / f"{name}_spk{n}").write_text(lines)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of enh.sh, enhanced by PyTorch."""
    monkeypatch.chdir(tmp_path)
    make_recipe("enh")
    make_data("valid", SETS["valid"])
    make_torch_decode()
    return tmp_path


run_enh = partial(run_onnx, template="enh")
FP32 = ("--stage", "14", "--onnx_variants", "fp32")
ONE = (*FP32, "--test_sets", "test_b")


def inputs(dset, *more):
    """The inputs of a set, the mixtures first."""
    directory = f"dump/raw/{dset}"
    return [
        f"{directory}/wav.scp,speech_mix,sound",
        *(f"{directory}/{m}" for m in more),
    ]


def test_mixtures_go_through_all_three_stages(recipe):
    args = ("--inference_args", "--normalize_output_wav true")
    result = run_enh("--stage", "14", "--onnx_variants", "fp32 int8", *args)
    assert result.returncode == 0, result.stderr
    model = {"train_config": ["exp/enh/config.yaml"], "model_file": ["exp/enh/m.pth"]}
    assert module_calls("export") == [
        {
            "task": ["enh"],
            **model,
            "config": [str(ROOT / "conf/export.yaml")],
            "output_dir": ["exp/enh/onnx/fp32"],
        }
    ]
    [quantize] = module_calls("quantize")
    clean = "spk1.scp,speech_ref1,sound"
    assert quantize["data_path_and_name_and_type"] == [
        *inputs("org/valid"),
        f"dump/raw/org/valid/{clean}",
    ]
    assert quantize["inference_args"][0].split() == ["--normalize_output_wav", "true"]
    ours = [
        call for call in module_calls("enh_inference") if "key_file" in call
    ]  # of decoding and timing
    assert ours[0] == {
        "model_dir": ["exp/enh/onnx/fp32"],
        "provider": ["cpu"],
        "num_threads": ["1"],
        "fs": ["8k"],
        "normalize_output_wav": ["true"],
        "data_path_and_name_and_type": inputs("valid"),
        "key_file": ["exp/enh/tag_onnx_fp32_valid/logdir/run/keys.1.scp"],
        "batch_size": ["1"],
        "max_failures": ["1"],
        "earlier_dir": ["exp/enh/tag_onnx_fp32_valid/logdir/output"],
        "output_dir": ["exp/enh/tag_onnx_fp32_valid/logdir/run/output.1"],
    }
    reference = module_calls("reference")[0]
    assert reference["inference"] == ["enh_inference"] and reference["fs"] == ["8k"]
    assert reference.items() >= model.items()
    [report] = module_calls("report")
    assert report["mixture_dir"] == ["dump/raw"]
    assert report["test_sets"] == list(SETS)
    assert report["reference"] == ["PyTorch", "exp/enh/tag_{test_set}", "exp/enh/m.pth"]
    scoring = [call for call in driver_calls() if "tag_onnx_int8" in call]
    assert [call[-6:] for call in scoring] == [
        ["--inference_tag", "tag_onnx_int8", "--stage", "8", "--stop_stage", "8"]
    ]
    header = next(s for s in result.stdout.splitlines() if s.startswith("| system"))
    assert header.startswith(
        "| system | SI-SNR dB | utterances | SNR to PyTorch dB, med"
    )
    assert "| int8 | 7.25 | 4 | inf | inf | 0.500 | 4.00x |" in result.stdout


def test_waveforms_are_listed_where_espnet_lists_them(recipe):
    make_torch_decode(2)
    directory = Path("exp/enh/tag_onnx_fp32_test_a")
    stale = directory / "scoring/result_sdr.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("1.0\n")
    result = run_enh(*FP32, "--ref_num", "2")
    assert result.returncode == 0, result.stderr
    for n in (1, 2):
        scp = dict(line.split() for line in open(directory / f"spk{n}.scp"))
        assert list(scp) == SETS["test_a"]
        for key, path in scp.items():
            *_, logdir, job, wavs, speaker, name = Path(path).parts
            assert (logdir, wavs, speaker, name) == (
                "logdir",
                "wavs",
                str(n),
                f"{key}.wav",
            )
            assert job == "output" and soundfile.info(path).frames == 50
    # Scores of an earlier run are not taken for this one's.
    assert not stale.exists()
    assert "| fp32 | 7.25 | 4 |" in result.stdout


def test_every_set_is_enhanced_once(recipe):
    result = run_enh(*FP32, "--valid_set", "test_b")
    assert result.returncode == 0, result.stderr
    assert module_calls("report")[0]["test_sets"] == ["test_b", "test_a"]


def test_speakers_are_extracted_by_their_enrollments(recipe):
    make_torch_decode(2)
    result = run_enh(*ONE, "--is_tse_task", "true", "--ref_num", "2")
    assert result.returncode == 0, result.stderr
    assert module_calls("export")[0]["task"] == ["enh_tse"]
    enrolled = [f"enroll_spk{n}.scp,enroll_ref{n},text" for n in (1, 2)]
    first = module_calls("enh_tse_inference")[0]
    assert first["data_path_and_name_and_type"] == inputs("valid", *enrolled)
    assert module_calls("reference")[0]["inference"] == ["enh_tse_inference"]


def test_categories_and_rates_of_mixtures(recipe):
    for name in ("utt2category", "utt2fs"):
        Path("dump/raw/test_b", name).write_text("u1 x\n")
    Path("other.yaml").touch()
    result = run_enh(*ONE, "--inference_enh_config", "other.yaml")
    assert result.returncode == 0, result.stderr
    given = {
        call["key_file"][0].split("/")[2]: call["data_path_and_name_and_type"]
        for call in module_calls("enh_inference")
        if "onnx_fp32" in call["key_file"][0]
    }
    more = ("utt2category,category,text", "utt2fs,fs,text_int")
    assert given["tag_onnx_fp32_test_b"] == inputs("test_b", *more)
    assert given["tag_onnx_fp32_valid"] == inputs("valid")
    # What changes the model is for the export, and for ESPnet's inference.
    assert module_calls("export")[0]["inference_enh_config"] == ["other.yaml"]
    assert module_calls("reference")[0]["inference_config"] == ["other.yaml"]
    assert not any("inference_config" in c for c in module_calls("enh_inference"))


def test_other_outputs_than_references_are_not_held_against_these(recipe):
    make_torch_decode(2)
    args = ("--stage", "15", "--stop_stage", "15", "--onnx_variants", "fp32 int8")
    Path("exp/enh/onnx/fp32").mkdir(parents=True)
    Path("exp/enh/onnx/fp32/manifest.yaml").touch()
    assert run_enh(*args, "--inf_num", "2").returncode == 0
    data = module_calls("quantize")[0]["data_path_and_name_and_type"]
    assert data == inputs("org/valid")


def test_what_is_enhanced_is_recognized(recipe):
    assert run_enh(*ONE, "--score_with_asr", "true").returncode == 0
    [scoring] = [call for call in driver_calls() if "tag_onnx_fp32" in call]
    assert scoring[-8:] == [
        *("--inference_tag", "tag_onnx_fp32", "--inference_asr_tag", "asr_onnx_fp32"),
        *("--stage", "8", "--stop_stage", "10"),
    ]
    # Of an option that is given several times the made-up python keeps all values.
    assert module_calls("report")[0]["asr_dir"] == [
        *("PyTorch", "exp/enh/asr", "fp32", "exp/enh/asr_onnx_fp32"),
    ]


def test_what_is_not_enhanced_is_an_error(recipe):
    result = run_enh("--stage", "14", env={"LOSE": "one"})
    assert result.returncode == 1
    assert "spk1.scp lacks 'u1'" in result.stderr


def test_mixtures_that_were_not_enhanced_are_not_scored(recipe):
    for n in (1, 2):
        rows = "".join(f"{key} {key}.wav\n" for key in SETS["test_a"])
        Path(f"dump/raw/test_a/spk{n}.scp").write_text(rows)
    args = (*FP32, "--test_sets", "test_a", "--onnx_max_failures")
    assert run_enh(*args, "0", env={"BAD": "u3"}).returncode == 1
    result = run_enh(*args, "1", env={"BAD": "u3"})
    assert result.returncode == 0, result.stderr
    [scoring] = [call for call in driver_calls() if "tag_onnx_fp32" in call]
    dump = Path("exp/enh/onnx/scored/tag_onnx_fp32")
    assert scoring[scoring.index("--dumpdir") + 1] == str(dump)
    for name in ("wav.scp", "spk1.scp", "spk2.scp"):
        lines = (dump / "raw/test_a" / name).read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["u1", "u2", "u4"]
    data = (dump / "raw/valid/feats_type").resolve()
    assert data == Path("dump/raw/valid/feats_type").resolve()
    assert (dump / "raw/RESULTS.md").exists()  # of the mixtures, which are not scored
    assert "| fp32 | 7.25 | 3 | inf |" in result.stdout
    assert "Utterances without a result" in result.stdout
    assert "test\\_a, fp32: 1. " in result.stdout
    # With all of them it is the recipe's own data again.
    assert run_enh(*args, "0").returncode == 0
    assert "--dumpdir" not in driver_calls()[-1] and not dump.exists()


def test_what_cannot_be_scored_is_told_before_anything_runs(recipe):
    lacks = {"env": {"NO_MODULES": "pystoi"}}
    for args in (("--stage", "8"), ("--stage", "14")):
        assert_refused(run_enh(*args, **lacks), "lacks pystoi", "mir_eval==0.8.*")
    assert module_calls() == []
    args = ("--stage", "5", "--stop_stage", "7")
    assert run_enh(*args, **lacks).returncode == 0
    args = ("--stage", "14", "--variable_num_refs", "true")
    assert_refused(run_enh(*args), "--variable_num_refs true")


# Enhancement and recognition in one model


@pytest.fixture
def joint_recipe(tmp_path, monkeypatch):
    """A recipe of enh_asr.sh with two speakers, decoded by PyTorch."""
    monkeypatch.chdir(tmp_path)
    make_recipe("enh_asr")
    make_torch_decode(2, "exp/enh_asr/enhanced")
    for name in ("test_a", "test_b"):
        write_decode(Path("exp/enh_asr/tag", name), SETS[name], 2)
    return tmp_path


run_joint = partial(run_onnx, template="enh_asr")


def test_words_and_speech_of_a_joint_model(joint_recipe):
    speech = ("--enh_inference_args", "--normalize_output_wav true")
    words = ("--spk_num", "2", "--asr_inference_args", "--beam_size 3")
    result = run_joint(*FP32, *words, *speech)
    assert result.returncode == 0, result.stderr
    assert module_calls("export")[0]["task"] == ["enh_asr"]
    decode = module_calls("asr_inference")[0]
    jobs = "exp/enh_asr/tag_onnx_fp32/test_a/logdir/run"
    assert decode["output_dir"] == [f"{jobs}/output.1"]
    assert decode["beam_size"] == ["3"] and decode["enh_s2t_task"] == ["true"]
    enhance = module_calls("enh_inference")[0]
    assert enhance == {
        "model_dir": ["exp/enh_asr/onnx/fp32"],
        "provider": ["cpu"],
        "num_threads": ["1"],
        "fs": ["8k"],
        "normalize_output_wav": ["true"],
        "enh_s2t_task": ["true"],
        "data_path_and_name_and_type": inputs("test_a"),
        "key_file": ["exp/enh_asr/enhanced_onnx_fp32_test_a/logdir/run/keys.1.scp"],
        "batch_size": ["1"],
        "max_failures": ["4"],
        "earlier_dir": ["exp/enh_asr/enhanced_onnx_fp32_test_a/logdir/output"],
        "output_dir": ["exp/enh_asr/enhanced_onnx_fp32_test_a/logdir/run/output.1"],
    }
    model = {
        "train_config": ["exp/enh_asr/config.yaml"],
        "model_file": ["exp/enh_asr/m.pth"],
    }
    references = module_calls("reference")
    assert references[0]["asr_train_config"] == model["train_config"]
    assert references[-1].items() >= model.items()
    assert {call["enh_s2t_task"][0] for call in references} == {"true"}
    scoring = [call[-6:] for call in driver_calls() if "--stop_stage" in call]
    assert scoring == [
        ["--inference_tag", "tag_onnx_fp32", *only(14)],
        ["--inference_enh_tag", "enhanced_onnx_fp32", *only(15)],
    ]
    words, speech = module_calls("report")
    assert words["reference"][1] == "exp/enh_asr/tag"
    assert speech["reference"][1] == "exp/enh_asr/enhanced_{test_set}"
    assert speech["output_dir"] == ["exp/enh_asr/onnx/enhancement"]
    assert "| system | utterances | identical % |" in result.stdout
    assert "| fp32 | 4 | inf | inf |" in result.stdout


def only(n):
    return ["--stage", f"{n}", "--stop_stage", f"{n}"]


@pytest.mark.parametrize(
    "args, ran",
    [
        (("--stage", "12", "--stop_stage", "14"), "12 13 14 15"),
        (
            ("--stage", "12", "--stop_stage", "14", "--use_speech_ref", "false"),
            "12 13 14",
        ),
        (("--stage", "12", "--stop_stage", "13"), "12 13"),
        (("--stage", "14", "--stop_stage", "15"), ""),
    ],
)
def test_espnet_scores_before_our_stages(joint_recipe, args, ran):
    assert run_joint(*args).returncode == 0
    calls = [call for call in driver_calls() if call and call[0].startswith("RAN")]
    assert [line for call in calls for line in call] == [
        f"RAN {n}" for n in ran.split()
    ]
