"""The adapter and the stages, in a made-up recipe of speech recognition."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import (
    ROOT,
    assert_refused,
    driver,
    driver_calls,
    make_data,
    make_recipe,
    make_torch_decode,
    manifest_text,
    module_calls,
    run,
    run_onnx,
)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with the adapter, one test set of four utterances and one of one."""
    monkeypatch.chdir(tmp_path)
    make_recipe("asr")
    return tmp_path


# The options of models of several speakers.
SPEAKERS = ["--num_ref", "2", "--inference_args", "--multi_asr true"]


# Handing arguments on


@pytest.mark.parametrize(
    "args",
    [
        ["--stage", "14", "--asr-args", "--max_epoch 1 --onnx true", "--lm_exp", ""],
        ["--lm_tag", "--onnx", "--skip_stages", " 1  2 "],
        ["--lm_tag", "$(false) 'a' \"b\" * \\"],
    ],
)
def test_without_onnx_every_argument_goes_on_untouched(recipe, args):
    result = run(*args, "--stop_stage", "0")
    assert result.returncode == 0, result.stderr
    assert driver_calls()[0] == ["./asr.sh", *args, "--stop_stage", "0"]


def test_onnx_false_leaves_espnets_own_stages(recipe):
    result = run("--onnx", "false", "--onnx_nj", "3", "--stage", "14")
    assert result.returncode == 0, result.stderr
    call, ran = driver_calls()
    assert call == ["./asr.sh", "--stage", "14"]
    assert ran == ["RAN 14", "RAN 15"]


def test_exit_status_is_the_drivers(recipe):
    assert run("positional").returncode == 2
    Path("asr.espnet.sh").write_text("exit 7\n")
    assert run().returncode == 7
    result = run_onnx("--stage", "14")
    assert result.returncode == 7


def test_what_the_driver_said_is_shown_where_it_fails(recipe):
    result = run_onnx("--stage", "14", "positional")
    assert result.returncode == 2 and "no positional arguments" in result.stderr


def test_help(recipe):
    for args in (["--help"], ["-h"], ["--onnx", "true", "--stage", "14", "--help"]):
        Path("asr.espnet.sh").write_text(
            driver("asr").replace("--help)", "--help | -h)")
        )
        result = run(*args)
        assert result.returncode == 0
        assert result.stderr.startswith("ESPnet's help")
        for name in ("variants", "export_config", "optimize_config", "quantize_config"):
            assert f"--onnx_{name} " in result.stderr
        assert f'(default="{ROOT}/conf/quantize.yaml")' in result.stderr
        for name in ("provider", "threads", "nj", "dir"):
            assert f"--onnx_{name} " in result.stderr


@pytest.mark.parametrize(
    "args, messages",
    [
        (["--onnx", "yes"], ["--onnx", "'yes'"]),
        (["--onnx=true"], ["write '--onnx true'"]),
        (["--onnx_nj=3"], ["write '--onnx_nj 3'"]),
        (["--onnx"], ["--onnx needs a value"]),
        (["--onnx_variant", "int8"], ["unknown option --onnx_variant"]),
        (["--onnx-nbest", "1"], ["unknown option --onnx-nbest"]),
        (["--onnx_variants", "fp32 int4"], ["'int4'", "fp32 optimized int8 weight8"]),
        (["--onnx_variants", "fp16"], ["fp16 is for --onnx_provider cuda"]),
        (["--onnx_variants", "tf32"], ["tf32 is for --onnx_provider cuda"]),
        (["--onnx_variants", ""], ["--onnx_variants", "at least one"]),
        (
            ["--onnx_variants", "fp32 int8", "--onnx_provider", "cuda"],
            ["int8 is for the CPU"],
        ),
        (
            ["--onnx_variants", "weight4", "--onnx_provider", "cuda"],
            ["weight4 is for the CPU"],
        ),
        (
            ["--onnx_variants", "int8", "--onnx_provider", "tensorrt"],
            ["int8 is for the CPU", "--onnx_provider tensorrt"],
        ),
        (
            ["--onnx_variants", "fp32 optimized", "--onnx_provider", "tensorrt"],
            ["TensorRT does its own fusions"],
        ),
        (["--onnx_provider", "tpu"], ["--onnx_provider", "'tpu'"]),
        (["--onnx_batch_bins", "0"], ["--onnx_batch_bins", "'0'"]),
        (["--onnx_threads", "0"], ["--onnx_threads", "'0'"]),
        (["--onnx_threads", "two"], ["--onnx_threads", "'two'"]),
        (["--onnx_nj", "-1"], ["--onnx_nj", "'-1'"]),
        (["--onnx_export_config", "no.yaml"], ["--onnx_export_config", "'no.yaml'"]),
        (["--onnx_quantize_config", ""], ["--onnx_quantize_config", "no such file"]),
        (["--stage", "x"], ["--stage", "'x'"]),
        (["--asr_task", "asr_other"], ["--asr_task asr_other", "asr_transducer"]),
        (["--asr_task", "asr_transducer", "--use_ngram", "true"], ["--use_ngram"]),
        (["--asr_task", "asr_transducer", "--use_maskctc", "true"], ["--use_maskctc"]),
        (["--use_k2", "true"], ["--use_k2"]),
        (["--use_streaming", "true", "--use_ngram", "true"], ["--use_ngram false"]),
        (["--use-maskctc", "true", "--use_lm", "true"], ["--use_lm false"]),
        (["--use_word_lm", "true"], ["--use_word_lm"]),
        (["--num_inf", "2"], ["--num_inf 2", "--num_ref 1"]),
        (["--num_inf", "2", "--num_ref", "3"], ["--num_inf 2", "--num_ref 3"]),
        (["--onnx_asr_model_dir", "exp"], ["--onnx_asr_model_dir is for tts.sh"]),
        (["--onnx_chunk_lengths", "512 1.5"], ["--onnx_chunk_lengths", "'1.5'"]),
        (["--onnx_chunk_lengths", "512"], ["--use_streaming true"]),
    ],
)
def test_bad_options_are_refused_before_anything_runs(recipe, args, messages):
    assert_refused(run_onnx(*args), *messages)
    assert all("RAN" not in line for call in driver_calls() for line in call)
    assert module_calls() == []


def test_missing_modules_are_told_before_anything_runs(recipe):
    result = run_onnx(env={"NO_MODULES": "onnx onnxruntime"})
    assert_refused(result, "./mypython -m pip install onnx onnxruntime")
    assert all("RAN" not in line for call in driver_calls() for line in call)


def test_without_install_the_remedy_is_told(recipe):
    Path("asr.espnet.sh").unlink()
    assert_refused(run(), "install_recipe.sh")


# Stages


def test_espnets_stages_run_up_to_13(recipe):
    assert run_onnx("--stage", "11", "--stop-stage", "14").returncode == 0
    sourced, run_driver, ran = driver_calls()
    assert sourced[-4:] == ["--stage", "100000", "--skip_upload_hf", "true"]
    assert run_driver == ["./asr.sh", "--python", "./mypython"] + (
        ["--stage", "11", "--stop-stage", "14", "--stop_stage", "13"]
    )
    assert ran == ["RAN 11", "RAN 12", "RAN 13"]
    assert [name for name, _ in module_calls()] == ["export"]


def test_stop_before_ours(recipe):
    assert run_onnx("--stage", "12", "--stop_stage", "12").returncode == 0
    assert driver_calls()[-1] == ["RAN 12"]
    assert module_calls() == []


def test_all_three_stages(recipe):
    make_torch_decode()
    Path("o.yaml").touch()
    Path("decode.yaml").touch()
    result = run_onnx(
        *["--stage", "14", "--onnx-optimize-config", "o.yaml", "--use_lm", "true"],
        *["--inference_config", "decode.yaml", "--inference_args", "--beam_size 5"],
    )
    assert result.returncode == 0, result.stderr
    lm = {"lm_train_config": ["exp/lm/config.yaml"], "lm_file": ["exp/lm/lm.pth"]}
    audio = ["dump/raw/org/valid/wav.scp,sound"]
    assert module_calls("export") == [
        {
            "task": ["asr"],
            "train_config": ["exp/asr/config.yaml"],
            "model_file": ["exp/asr/m.pth"],
            **lm,
            "parity_scp": audio,
            "config": [str(ROOT / "conf/export.yaml")],
            "output_dir": ["exp/asr/onnx/fp32"],
        }
    ]
    assert module_calls("optimize") == [
        {
            "model_dir": ["exp/asr/onnx/fp32"],
            "output_dir": ["exp/asr/onnx/optimized"],
            "provider": ["cpu"],
            "calibration_scp": audio,
            "config": ["o.yaml"],
        }
    ]
    assert module_calls("quantize") == [
        {
            "model_dir": ["exp/asr/onnx/fp32"],
            "output_dir": ["exp/asr/onnx/int8"],
            "precision": ["int8"],
            "provider": ["cpu"],
            "calibration_scp": audio,
            "calibration_text": ["dump/raw/org/valid/text"],
            "inference_config": ["decode.yaml"],
            "inference_args": ["--beam_size 5 --ngram_weight 0"],
            "config": [str(ROOT / "conf/quantize.yaml")],
        }
    ]
    calls = module_calls("asr_inference")
    decodes = [c for c in calls if "logdir" in c["output_dir"][0]]
    assert len(decodes) == 3 * (3 + 1)  # variants, jobs of test_a and test_b
    assert decodes[0] == {
        "model_dir": ["exp/asr/onnx/fp32"],
        "provider": ["cpu"],
        "num_threads": ["1"],
        "data_path_and_name_and_type": ["dump/raw/test_a/wav.scp,speech,sound"],
        "key_file": ["exp/asr/tag_onnx_fp32/test_a/logdir/run/keys.1.scp"],
        "batch_size": ["1"],
        "max_failures": ["4"],
        "earlier_dir": ["exp/asr/tag_onnx_fp32/test_a/logdir/output"],
        "output_dir": ["exp/asr/tag_onnx_fp32/test_a/logdir/run/output.1"],
        "config": ["decode.yaml"],
        "beam_size": ["5"],
        "ngram_weight": ["0"],
    }
    for name in ("text", "token", "token_int", "score"):
        merged = Path("exp/asr/tag_onnx_int8/test_a", name).read_text()
        assert [line.split()[0] for line in merged.splitlines()] == [
            "u1",
            "u2",
            "u3",
            "u4",
        ]
    scoring = [call for call in driver_calls() if "tag_onnx_int8" in call]
    assert len(scoring) == 1
    assert scoring[0][-8:] == ["--inference_tag", "tag_onnx_int8"] + (
        ["--skip_stages", "", "--stage", "13", "--stop_stage", "13"]
    )
    assert sum(line == "RAN 13" for call in driver_calls() for line in call) == 3
    table = Path("exp/asr/onnx/RESULTS.md").read_text()
    assert "| int8 | 4 | 100.00 | 0 | 0.500 | 4.00x |" in table
    assert table in result.stdout


def test_a_gpu_is_asked_for_and_batches_have_a_limit(recipe):
    script = '#!/usr/bin/env bash\necho "$1 $2" >> gpu_calls\nexec ./job "$@"\n'
    Path("gpu_job").write_text(script)
    Path("gpu_job").chmod(0o755)
    args = ["--onnx_provider", "cuda", "--cuda_cmd", "./gpu_job"]
    result = run_onnx("--stage", "14", "--onnx_batch_bins", "160000", *args)
    assert result.returncode == 0, result.stderr
    calls = module_calls("asr_inference")
    decodes = [c for c in calls if "logdir" in c["output_dir"][0]]
    assert len(decodes) == 2 * (3 + 1)  # fp32 and optimized
    for call in decodes:
        assert call["provider"] == ["cuda"]
        assert (call["batch_size"], call["batch_bins"]) == (["1"], ["160000"])
    assert all("batch_bins" not in call for call in calls if call not in decodes)
    assert set(Path("gpu_calls").read_text().splitlines()) == {"--gpu 1"}


def test_jobs_ask_for_the_memory_that_they_need(recipe):
    log = '#!/usr/bin/env bash\necho "$*" >> job_calls\nexec ./run "$@"\n'
    Path("job").rename("run")
    Path("job").write_text(log)
    Path("job").chmod(0o755)
    Path("exp/asr/m.pth").write_bytes(bytes(50 << 20))
    make_torch_decode()
    assert run_onnx("--stage", "14", "--onnx_variants", "fp32").returncode == 0

    def asked(part):
        lines = [line for line in open("job_calls") if part in line]
        return {line.split("--mem ")[1].split()[0] for line in lines}

    assert asked("bin.export") == {"2248M"}
    assert asked("bin.asr_inference") == {"1024M"}  # of a bundle of no size
    assert asked("bin.reference") == {"3684M"}
    assert asked("bin.report") == asked("bin.sample") == {"1024M"}


@pytest.mark.parametrize(
    "settings, asked",
    [
        ("true", "1124M"),
        ("batch_size=4", "2660M"),
        ("onnx_batch_bins=1920000", "2148M"),
        ("onnx_cmd='queue.pl --gpu 1'", "5220M"),
        # Schedulers count for each thread, but for PBS; the last option is the one.
        ("onnx_cmd='slurm.pl --num-threads 8 --num-threads 4'", "281M"),
        ("onnx_cmd='pbs.pl --num-threads 4'", "1124M"),
        # What cmd.sh says holds.
        ("onnx_cmd='slurm.pl --mem 7G --num-threads 4'", "7G"),
    ],
)
def test_memory_is_that_of_the_model_and_the_utterances(tmp_path, settings, asked):
    (tmp_path / "encoder.weights").write_bytes(bytes(50 << 20))
    code = (
        f"set -euo pipefail; . {ROOT}/egs2_stage/onnx_stages.sh; onnx_batch_bins=; "
        f'onnx_cmd="slurm.pl --gpu 0"; {settings}; onnx_ask_decoding_memory 512 "$1"'
    )
    command = ["bash", "-c", code, "bash", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("--mem") == 1 and said.split("--mem ")[1].split()[0] == asked


def test_an_onnxruntime_without_cuda_is_refused_first(recipe):
    args = ["--onnx_provider", "cuda", "--stage", "1"]
    result = run("--onnx", "true", "--python", sys.executable, *args)
    assert_refused(result, "provider 'cuda' is not in this onnxruntime", "pip install")
    assert all("RAN 1" not in call for call in driver_calls())


@pytest.mark.parametrize(
    "choice, task, command, option, lm_weight",
    [
        ("--use_maskctc true", "asr", "inference_maskctc", "maskctc_n_iterations", []),
        (
            "--asr_task asr_transducer",
            "asr_transducer",
            "transducer_inference",
            "beam_size",
            ["0"],
        ),
    ],
)
def test_models_have_their_own_commands(
    recipe, choice, task, command, option, lm_weight
):
    make_torch_decode()
    args = [*choice.split(), "--inference_args", f"--{option} 5"]
    result = run_onnx("--stage", "14", "--onnx_variants", "int8", *args)
    assert result.returncode == 0, result.stderr
    [exported] = module_calls("export")
    assert exported["task"] == [task] and "lm_file" not in exported
    [quantized] = module_calls("quantize")
    without_lm = [f"--lm_weight {weight}" for weight in lm_weight]
    assert quantized["inference_args"] == [" ".join([f"--{option} 5", *without_lm])]
    decodes = module_calls(f"asr_{command}")
    assert len(decodes) == 3 + 1 + 2  # jobs of test_a and test_b, and their timing
    references = module_calls("reference")
    assert len(references) == 2
    for call in references:
        assert call["inference"] == [f"asr_{command}"]
        assert call["asr_train_config"] == ["exp/asr/config.yaml"]
        assert "lm_weight" not in call
    for call in decodes + references:
        assert call[option] == ["5"] and "ngram_weight" not in call
    assert all(call.get("lm_weight", []) == lm_weight for call in decodes)
    assert module_calls("asr_inference") == []


def test_streams_have_their_own_commands(recipe):
    make_torch_decode()
    args = ["--use_streaming", "true", "--inference_args", "--sim_chunk_length 512"]
    result = run_onnx("--stage", "14", "--onnx_variants", "int8", *args)
    assert result.returncode == 0, result.stderr
    [quantized] = module_calls("quantize")
    assert quantized["inference"] == ["asr_inference_streaming"]
    assert quantized["inference_args"] == ["--sim_chunk_length 512 --lm_weight 0"]
    decodes = module_calls("asr_inference_streaming")
    # Jobs of test_a and test_b, and their timing: with ESPnet's front end, and exact.
    assert len(decodes) == 2 * (3 + 1 + 2)
    assert ["frontend" in call for call in decodes[:8]] == [False] * 4 + [True] * 4
    references = module_calls("reference")
    assert [c["inference"] for c in references] == [["asr_inference_streaming"]] * 2
    for call in decodes + references:
        assert call["sim_chunk_length"] == ["512"]
        assert "ngram_weight" not in call
    assert all(call["lm_weight"] == ["0"] for call in decodes)
    assert Path("exp/asr/tag_onnx_int8/test_a/text").exists()
    assert module_calls("asr_inference") == []
    table = Path("exp/asr/onnx/RESULTS.md").read_text()
    assert "| PyTorch | — | — | 4 | — | — | 2.000 | — | — | — | — |" in table
    row = "| int8 | {} | 0.032 | 4 | 100.00 | 0 | 0.500 | 1.500 | 1.250 | 1.000 | 4.00x"
    for frontend in ("espnet", "exact"):
        assert row.format(frontend) in table


def test_streams_are_cut_in_other_ways_by_the_last_variant(recipe):
    args = ["--onnx_variants", "fp32 int8", "--test_sets", "test_b"]
    streaming = ["--use_streaming", "true", "--onnx_chunk_lengths", "640 5120"]
    streaming += ["--inference_args", "--sim_chunk_length 512"]
    assert run_onnx("--stage", "14", *args, *streaming).returncode == 0
    decodes = module_calls("asr_inference_streaming")
    made = [
        (
            call["output_dir"][0].split("/")[-5],
            call["model_dir"][0].split("/")[-1],
            call["sim_chunk_length"],
            call.get("frontend"),
        )
        for call in decodes
        if "logdir" in call["output_dir"][0]
    ]
    exact = ["exact"]
    assert made == [
        ("tag_onnx_fp32", "fp32", ["512"], None),
        ("tag_onnx_int8", "int8", ["512"], None),
        ("tag_onnx_int8_exact", "int8", ["512"], exact),
        ("tag_onnx_int8_chunk640", "int8", ["512", "640"], None),
        ("tag_onnx_int8_exact_chunk640", "int8", ["512", "640"], exact),
        ("tag_onnx_int8_chunk5120", "int8", ["512", "5120"], None),
        ("tag_onnx_int8_exact_chunk5120", "int8", ["512", "5120"], exact),
    ]
    assert len(decodes) == 2 * len(made)  # each is timed as it decodes
    tags = [tag for tag, *_ in made]
    assert [arg for call in driver_calls() for arg in call if arg in tags] == tags
    table = Path("exp/asr/onnx/RESULTS.md").read_text()
    rows = [line.split(" | ")[:3] for line in table.splitlines() if "| int8" in line]
    assert rows == [
        ["| int8", frontend, chunk]
        for chunk in ("0.032", "0.04", "0.32")
        for frontend in ("espnet", "exact")
    ]
    # Decoded whole again, the recipe leaves nothing of its streams.
    assert run_onnx("--stage", "16", *args).returncode == 0
    assert "front end" not in Path("exp/asr/onnx/RESULTS.md").read_text()


def test_models_without_an_exact_front_end_have_espnets_alone(recipe):
    args = ["--use_streaming", "true", "--inference_args", "--sim_chunk_length 512"]
    args += ["--onnx_variants", "fp32", "--onnx_chunk_lengths", "640"]
    assert run_onnx(*args, "--stage", "14", "--stop_stage", "15").returncode == 0
    text = manifest_text(["encoder", "stream_chunks"])
    text += "stream:\n  again: 1\n  shortest: 1\n  normalize: utterance_mvn\n"
    Path("exp/asr/onnx/fp32/manifest.yaml").write_text(text)
    result = run_onnx(*args, "--stage", "16")
    assert result.returncode == 0, result.stderr
    assert "Warning: no decoding with the exact front end" in result.stdout
    decodes = module_calls("asr_inference_streaming")
    assert all("frontend" not in call for call in decodes)
    assert not Path("exp/asr/tag_onnx_fp32_exact_chunk640").exists()
    assert Path("exp/asr/tag_onnx_fp32_chunk640").exists()


def timed():
    """Return the model (None for PyTorch) and test set of each timing so far."""
    pairs = []
    for name, args in module_calls():
        output_dir = args.get("output_dir", [""])[0]
        if "onnx_timing" in output_dir:
            assert args["data_path_and_name_and_type"][0].count("wav.scp,speech")
            model = args["model_dir"][0] if name == "asr_inference" else None
            pairs.append((model, output_dir.split("/")[-3]))
    return pairs


def test_every_system_is_timed_alone_on_the_same_utterances(recipe):
    make_torch_decode()
    args = ["--stage", "16", "--inference_args", "--beam_size 5"]
    assert run_onnx("--stage", "14", "--stop_stage", "15").returncode == 0
    assert run_onnx(*args).returncode == 0
    bundles = [f"exp/asr/onnx/{name}" for name in ("fp32", "optimized", "int8")]
    systems = [None, *bundles]
    assert timed() == [(s, d) for d in ("test_a", "test_b") for s in systems]
    timings = [c for _, c in module_calls() if "onnx_timing" in str(c)]
    timings = [c for c in timings if "key_file" in c]
    assert {c["key_file"][0] for c in timings} == {
        "exp/asr/onnx/timing/test_a/keys.scp",
        "exp/asr/onnx/timing/test_b/keys.scp",
    }
    assert all(c["beam_size"] == ["5"] for c in timings)
    assert all(c["num_threads"] == ["1"] for c in timings)
    assert timings[0]["ngpu"] == ["0"]
    keys = Path("exp/asr/onnx/timing/test_a/keys.scp").read_text()
    assert keys == "u1\nu2\nu3\nu4\n"

    def timed_by(*args):
        before = len(timed())
        assert run_onnx(*args).returncode == 0
        return [model for model, test_set in timed()[before:] if test_set == "test_a"]

    # What is there is not timed again, unless something has changed.
    assert timed_by(*args) == []
    assert timed_by(*args, "--onnx_variants", "int8") == []
    Path(bundles[2], "manifest.yaml").touch()
    assert timed_by(*args) == [bundles[2]]
    Path("exp/asr/m.pth").write_text("another model")
    assert timed_by(*args) == systems
    assert timed_by(*args, "--onnx_threads", "2") == systems


def test_variants_are_timed_without_pytorch(recipe):
    result = run_onnx("--stage", "14", "--onnx_variants", "fp32")
    assert result.returncode == 0, result.stderr
    bundle = "exp/asr/onnx/fp32"
    assert timed() == [(bundle, "test_a"), (bundle, "test_b")]
    table = Path("exp/asr/onnx/RESULTS.md").read_text()
    assert "| system | utterances | RTF |" in table
    assert "| fp32 | 4 | 0.500 |" in table


def test_several_speakers_go_through_all_three_stages(recipe):
    make_torch_decode(speakers=("_spk1", "_spk2"))
    result = run_onnx("--stage", "14", "--onnx_variants", "fp32 int8", *SPEAKERS)
    assert result.returncode == 0, result.stderr
    [quantize] = module_calls("quantize")
    texts = [f"dump/raw/org/valid/text_spk{i}" for i in (1, 2)]
    assert quantize["calibration_text"] == texts
    assert quantize["inference_args"][0].startswith("--multi_asr true")
    decoded = Path("exp/asr/tag_onnx_int8/test_a")
    for name in ("text", "token", "token_int", "score"):
        assert not (decoded / name).exists()
        for speaker in ("_spk1", "_spk2"):
            merged = (decoded / f"{name}{speaker}").read_text()
            assert merged == "u1 1 2\nu2 1 2\nu3 1 2\nu4 1 2\n"
    references = module_calls("reference")
    assert [call["multi_asr"] for call in references] == [["true"]] * 2
    table = Path("exp/asr/onnx/RESULTS.md").read_text()
    assert "| int8 | 4 | 100.00 | 0 | 0.500 | 4.00x |" in table


@pytest.mark.parametrize("option, what", [("lm", "language"), ("ngram", "n-gram")])
def test_a_bundle_lacks_a_model_that_the_search_uses(recipe, option, what):
    Path("exp/ngram").mkdir()
    Path("exp/ngram/3gram.bin").touch()
    args = ["--ngram_exp", "exp/ngram", "--inference_ngram", "3gram.bin"]
    use = [f"--use_{option}", "true"]
    assert run_onnx("--stage", "14", "--stop_stage", "15").returncode == 0
    result = run_onnx("--stage", "16", *args, *use)
    assert_refused(result, f"exp/asr/onnx/fp32 has no {what} model: run stages 14")
    assert run_onnx("--stage", "14", *args, *use).returncode == 0
    # More than the search uses is no harm: a weight of 0 takes it out.
    assert run_onnx("--stage", "16").returncode == 0
    assert module_calls("asr_inference")[-1][f"{option}_weight"] == ["0"]


@pytest.mark.parametrize(
    "variants, made",
    [
        ("fp32", ["export"]),
        ("optimized", ["export", "optimize"]),
        ("int8 fp32", ["export", "quantize"]),
        ("weight4 weight8", ["export", "quantize", "quantize"]),
    ],
)
def test_only_the_variants_asked_for(recipe, variants, made):
    args = ["--stage", "14", "--onnx_variants", variants, "--onnx_dir", "here"]
    assert run_onnx(*args).returncode == 0
    makers = ("export", "optimize", "quantize")
    assert [name for name, _ in module_calls() if name in makers] == made
    decoded = {args["model_dir"][0] for args in module_calls("asr_inference")}
    assert decoded == {f"here/{variant}" for variant in variants.split()}


def test_variants_of_a_gpu(recipe):
    """TF32 is arithmetic of the optimized model; a budget is measured on the GPU."""
    args = ["--stage", "14", "--onnx_provider", "cuda", "--test_sets", "test_b"]
    result = run_onnx(*args, "--onnx_variants", "bf16 fp16 tf32")
    assert result.returncode == 0, result.stderr
    made = [args["output_dir"][0] for args in module_calls("optimize")]
    assert made == ["exp/asr/onnx/optimized"]
    quantized = module_calls("quantize")
    assert [args["precision"] for args in quantized] == [["fp16"], ["bf16"]]
    assert all(args["provider"] == ["cuda"] for args in quantized)
    calls = module_calls("asr_inference")
    decodes = [c for c in calls if "logdir" in c["output_dir"][0]]
    assert [(c["model_dir"], c.get("tf32")) for c in decodes] == [
        (["exp/asr/onnx/optimized"], ["true"]),
        (["exp/asr/onnx/fp16"], None),
        (["exp/asr/onnx/bf16"], None),
    ]
    table = Path("exp/asr/onnx/RESULTS.md").read_text()
    assert all(f"| {name} |" in table for name in ("tf32", "fp16", "bf16"))


def test_stages_can_be_skipped(recipe):
    args = ["--stage", "14", "--skip_stages", "14 16"]
    Path("exp/asr/onnx/fp32").mkdir(parents=True)
    Path("exp/asr/onnx/fp32/manifest.yaml").touch()
    assert run_onnx(*args).returncode == 0
    assert [name for name, _ in module_calls()] == ["optimize", "quantize"]
    assert run_onnx("--stage", "16", "--skip_eval", "true").returncode == 0
    assert module_calls("asr_inference") == []


def test_without_pytorchs_decode_a_warning_and_tables(recipe):
    make_torch_decode(["test_a"])
    result = run_onnx("--stage", "14", "--onnx_variants", "fp32")
    assert result.returncode == 0, result.stderr
    assert "Warning: no decoding of test_b by PyTorch" in result.stdout
    assert module_calls("reference") == []
    assert "| fp32 |" in Path("exp/asr/onnx/RESULTS.md").read_text()


def test_valid_set_is_decoded_where_espnet_decodes_it(recipe):
    args = ["--stage", "14", "--onnx_variants", "fp32", "--eval_valid_set", "true"]
    assert run_onnx(*args).returncode == 0
    assert Path("exp/asr/tag_onnx_fp32/org/valid/text").read_text() == "v1 1 2\n"
    assert "## org/valid" in Path("exp/asr/onnx/RESULTS.md").read_text()


@pytest.mark.parametrize(
    "data, args, expected",
    [
        ({}, ["--audio_format", "wav.ark"], "wav.scp,speech,kaldi_ark"),
        ({"audio_format": "flac_multi"}, [], "wav.scp,speech,multi_columns_sound"),
        (
            {"scp": "feats.scp", "feats_type": "fbank_pitch"},
            [],
            "feats.scp,speech,kaldi_ark",
        ),
    ],
)
def test_data_types_are_espnets(recipe, data, args, expected):
    make_data("test_a", ["u1", "u2"], **data)
    args += ["--stage", "14", "--onnx_variants", "fp32", "--test_sets", "test_a"]
    assert run_onnx(*args).returncode == 0
    call = module_calls("asr_inference")[0]
    assert call["data_path_and_name_and_type"] == [f"dump/raw/test_a/{expected}"]


def test_fewer_jobs_leave_nothing_of_an_earlier_run(recipe):
    args = ["--stage", "14", "--onnx_variants", "fp32"]
    assert run_onnx(*args).returncode == 0
    logdir = Path("exp/asr/tag_onnx_fp32/test_a/logdir")
    assert (logdir / "asr_inference.3.log").is_file()
    more = ["--onnx_nj", "1", "--onnx_force", "true"]
    assert run_onnx(*args, *more).returncode == 0
    assert sorted(path.name for path in logdir.iterdir()) == [
        "asr_inference.1.log",
        "keys.scp",
        "merge.log",
        "output",
        "resume.log",
        "todo.scp",
    ]


def test_lists_are_read_as_the_decoding_commands_read_them(recipe):
    make_data("test_a", [])
    lines = "\ufeffu1\tu1.flac\r\n\r\nu2 u2.flac\nu3\t\u2028.flac"
    Path("dump/raw/test_a/wav.scp").write_bytes(lines.encode("utf-8"))
    make_torch = Path("exp/asr/tag/test_a")
    shutil.rmtree(make_torch, ignore_errors=True)
    args = ["--stage", "14", "--onnx_variants", "fp32", "--test_sets", "test_a"]
    run_onnx(*args, "--onnx_nj", "8")
    logdir = Path("exp/asr/tag_onnx_fp32/test_a/logdir")
    assert (logdir / "keys.scp").read_text() == "u1\nu2\nu3\n"
    text = Path("exp/asr/tag_onnx_fp32/test_a/text").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["u1", "u2", "u3"]


@pytest.mark.parametrize("module", ["export", "quantize", "asr_inference", "report"])
def test_a_failing_job_is_shown_and_ends_the_stage(recipe, module):
    result = run_onnx("--stage", "14", env={"FAIL": module})
    assert result.returncode == 1
    assert "the reason of the failure" in result.stderr
    assert ".log" in result.stderr.splitlines()[-1]
    assert module_calls()[-1][0] == module


def test_reasons_of_failed_jobs_are_counted(tmp_path):
    # The last lines of run.pl, and those of slurm.pl, queue.pl and pbs.pl.
    end = "# Ended (code {}) at Sat Nov 28 11:20:00 UTC 2026, elapsed time 1 seconds\n"
    finished = "# Finished at Sat Nov 28 11:20:00 UTC 2026 with status {}\n"
    wav, scp = (
        "asr_inference: error: a.wav is empty; x",
        "asr_inference: error: no scp; y",
    )
    contents = [
        f"log\n{wav}\n" + end.format(1),
        end.format(0),
        f"{scp}\n" + finished.format(1),
        finished.format(0),
        f"log\n{scp}\n" + end.format(1),
        "log\n" + end.format(137),
        "log\n" + finished.format(137),
        "# Started at Sat Nov 28 11:19:00 UTC 2026\nlog\n",
    ]
    logs = [tmp_path / f"{number}.log" for number in range(len(contents) + 1)]
    for log, content in zip(logs, contents):
        log.write_text(content)

    def shown(*logs):
        code = (
            'set -euo pipefail; onnx_die() { echo "Error: $*" >&2; exit 1; }; '
            f'. {ROOT}/egs2_stage/onnx_stages.sh; false || onnx_show_failure "$@"'
        )
        command = ["bash", "-c", code, "bash", *map(str, logs)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        return [line.strip() for line in done.stderr.splitlines()]

    *reasons, last = shown(*logs)
    assert f"2 {scp}" in reasons[:2] and f"1 {wav}" in reasons[2:]
    assert sorted(r.split(":")[0] for r in reasons) == [
        "1 a job never started",
        "1 a job was lost",
        "1 asr_inference",
        "2 a job was killed (code 137)",
        "2 asr_inference",
    ]
    assert last == f"Error: 7 of 9 job(s) failed, see {logs[0]}"
    logs[0].write_text("a traceback\n" + end.format(1))
    assert shown(logs[0], logs[1])[0] == "a traceback"
    given_up = (
        "Error: jobs were given up, though their logs end well: run the stage again"
    )
    assert shown(logs[1]) == [given_up]
    # The scheduler has a log of its own for all jobs of an array.
    said = "slurmstepd: error: *** JOB 5 ON node2 CANCELLED DUE TO TIME LIMIT ***"
    (tmp_path / "q").mkdir()
    (tmp_path / "q/decode.log").write_text(f"Submitted batch job 4\n{said}\n")
    decodes = [tmp_path / f"decode.{number}.log" for number in (1, 2)]
    decodes[0].write_text("# Started at Sat Nov 28 11:19:00 UTC 2026\nlog\n")
    decodes[1].write_text(end.format(0))
    lost, scheduler, last = shown(*decodes)
    assert lost.startswith("1 a job was lost") and scheduler == said
    assert last == f"Error: 1 of 2 job(s) failed, see {decodes[0]}"
    # Or the only one.
    said = 'Unable to run job: unknown resource "ram_free"'
    (tmp_path / "q/merge.log").write_text(f"{said}\nExiting.\n")
    never, scheduler, last = shown(tmp_path / "merge.log")
    assert never.startswith("1 a job never started") and scheduler == said
    assert last == f"Error: 1 of 1 job(s) failed, see {tmp_path}/q/merge.log"


@pytest.mark.parametrize("code", ["0", "3", "137"])
def test_a_job_of_grid_engine_is_never_left_in_its_queue(code):
    """By queue.pl, which does so, and waits for ever, where a job ends with 137."""
    command = [ROOT / "egs2_stage/bin/with_plugin", "bash", "-c"]
    command += ["kill -9 $$" if code == "137" else f"exit {code}"]
    env = {**os.environ, "SGE_TASK_ID": "undefined"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == {"0": 0, "3": 3, "137": 1}[code]
    if code == "137":
        last = done.stderr.splitlines()[-1]
        assert last.startswith("with_plugin: error: a job was killed (code 137)")


@pytest.mark.parametrize("case", ["no locks", "gone"])
def test_locks_of_nfs(tmp_path, case):
    """A missing lock is told; a file that says it is gone is no lock."""
    flock = {
        "no locks": "flock() { return 71; }",
        "gone": """flock() {
            command flock "$@" || return
            calls=$((${calls:-0} + 1))
            [ "${calls}" -ne 1 ] || echo gone > "${onnx_exp}"/.tag.lock
            [ "${calls}" -ne 2 ] || rm "${onnx_exp}"/.tag.lock
        }""",
    }[case]
    code = (
        'set -euo pipefail; log() { echo "$*"; }; '
        f". {ROOT}/egs2_stage/onnx_stages.sh; "
        f"onnx_exp={tmp_path} onnx_wait=false; {flock}\n"
        'onnx_hold tag; echo "${calls:-0}"; cat "${onnx_exp}"/.tag.lock; onnx_let_go'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *warning, calls, holder = done.stdout.splitlines()
    assert holder.startswith("process ")
    assert calls == ("3" if case == "gone" else "0")
    assert ["this file system has no locks" in w for w in warning] == (
        [True] if case == "no locks" else []
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failing_scoring_is_shown(recipe):
    failing = 'echo "no scores today"; [[ $* != *" 13"* ]] || exit 3\n'
    Path("asr.espnet.sh").write_text(driver("asr").replace('all="$*"\n', failing))
    result = run_onnx("--stage", "14", "--onnx_variants", "fp32")
    assert result.returncode == 1
    assert "no scores today" in result.stderr and "score.log" in result.stderr


@pytest.mark.parametrize(
    "text, args", [("text", []), ("token_int", []), ("text_spk2", SPEAKERS)]
)
def test_a_lost_utterance_is_an_error(recipe, text, args):
    args = ["--stage", "14", "--onnx_variants", "fp32", *args]
    stale = Path("exp/asr/tag_onnx_fp32/test_a/score_wer")
    stale.mkdir(parents=True)
    result = run_onnx(*args, env={"LOSE": text})
    assert result.returncode == 1 and not stale.exists()
    assert f"test_a/{text} lacks 'u1'" in result.stderr
    assert not Path("exp/asr/tag_onnx_fp32/test_a/onnx_decode.json").exists()


@pytest.mark.parametrize("stage", ["14", "16"])
def test_a_model_that_was_not_trained(recipe, stage):
    shutil.rmtree("exp/asr")
    result = run_onnx("--stage", stage)
    assert_refused(result, "exp/asr is missing: train the model first")
    assert not Path("exp/asr").exists()


@pytest.mark.parametrize("variants", ["fp32", "int8"])
def test_a_missing_model_names_the_stages(recipe, variants):
    result = run_onnx("--stage", "16", "--onnx_variants", variants)
    assert_refused(result, f"exp/asr/onnx/{variants}", "run stages 14 and 15")
    result = run_onnx("--stage", "15", "--onnx_variants", "int8")
    assert_refused(result, "exp/asr/onnx/fp32", "run stages 14 and 15")
