"""The adapter and the stages: in a made-up recipe, and in a checkout of ESPnet."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]

# Variables of ESPnet's drivers, with the values of the made-up recipes.
GENERAL = """
stage=1; stop_stage=100; skip_upload_hf=true; skip_eval=false
python=python3; inference_nj=3; inference_tag=; inference_config=; inference_args=
audio_format=flac; data_feats=dump/raw; valid_set=valid; test_sets="test_a test_b"
decode_cmd=./job; cuda_cmd=./job
"""
SEARCH = """
use_lm=false; lm_exp=exp/lm; inference_lm=lm.pth; use_ngram=false; batch_size=1
"""

# ESPnet's driver as the adapter sees it: parses options, sets variables, runs stages.
ACTIONS = r"""
log() { echo "LOG $*"; }
printf '%s\n' "$0" "$@" "--" >> driver_calls
all="$*"
while [ $# -gt 0 ]; do
    case $1 in
        --help) echo "ESPnet's help" >&2; exit 0 ;;
        --*) name=${1#--}; printf -v "${name//-/_}" '%s' "$2"; shift 2 ;;
        *) echo "no positional arguments"; exit 2 ;;
    esac
done
inference_tag=${inference_tag:-tag}
[ -z "${num_ref-}" ] || num_inf=${num_inf:=${num_ref}}
for n in $(seq "${stage}" "$((stop_stage < 15 ? stop_stage : 15))"); do
    [[ " ${skip_stages-} " == *" ${n} "* ]] || echo "RAN ${n}" >> driver_calls
done
"""

# Made-up drivers; test_drivers.py holds their variables against those of real ones.
VARIABLES = dict(
    asr=f"""{GENERAL} {SEARCH}
    asr_task=asr; asr_exp=exp/asr; inference_asr_model=m.pth; skip_stages=
    use_k2=false; use_streaming=false; use_maskctc=false; num_ref=1; num_inf=
    eval_valid_set=false
    """,
    st=f"""{GENERAL} {SEARCH}
    st_exp=exp/st; inference_st_model=m.pth; inference_asr_lm=lm.pth
    use_src_lm=false; src_lm_exp=; use_src_ngram=false; tgt_case=tc; tgt_lang=en
    use_k2=false; use_streaming=false
    """,
    s2t=f"""{GENERAL} {SEARCH}
    s2t_exp=exp/s2t; inference_s2t_model=m.pth; s2t_ctc=false; skip_stages=
    use_streaming=false; num_ref=1; num_inf=1; eval_valid_set=false
    """,
    slu=f"""{GENERAL} {SEARCH}
    slu_exp=exp/slu; inference_slu_model=m.pth; use_transcript=false
    """,
    tts=f"""{GENERAL}
    tts_exp=exp/tts; inference_model=m.pth; train_set=train; dumpdir=dump
    vocoder_file=none; teacher_dumpdir=; skip_scoring=false; spk_embed_tag=embed
    use_spk_embed=false; use_sid=false; use_lid=false
    """,
)


def driver(template):
    """A made-up driver of a template."""
    return VARIABLES[template] + ACTIONS


# Runs a job as run.pl does, or fails as it does.
JOB = r"""#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift 2; done
jobs=1
if [[ $1 == JOB=* ]]; then jobs=${1#*:}; shift; fi
rc=0
for n in $(seq "${jobs}"); do
    log=${1//JOB/${n}}; args=("${@:2}"); mkdir -p "$(dirname "${log}")"
    "${args[@]//JOB/${n}}" > "${log}" 2>&1 && status=0 || status=$?
    echo "# Ended (code ${status})" >> "${log}"
    [ "${status}" -eq 0 ] || rc=1
done
exit "${rc}"
"""

# Stands for the recipe's python: writes down its calls; the tables are really made.
PYTHON = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
args = sys.argv[1:]
if args[0] == "-c":
    missing = os.environ.get("NO_MODULES", "")
    print(missing)
    sys.exit(int(args[1] == "import versa" and missing == "versa"))
name = args[1].rpartition(".")[2]
values = {{}}
for arg in args[2:]:
    if arg.startswith("--"):
        key, equals, value = arg[2:].partition("=")
        last = values.setdefault(key, [])
        last += [value] * bool(equals)
    else:
        last.append(arg)
with open("module_calls", "a") as f:
    print(json.dumps([name, values]), file=f)
print("about to run")
if os.environ.get("FAIL") == name:
    sys.exit("the reason of the failure")
if name in ("sample", "report"):
    without_plots = "import runpy, sys; sys.modules['matplotlib'] = None; "
    without_plots += "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
    os.execv(sys.executable, [sys.executable, "-c", without_plots, *args[1:]])
out = Path(values["output_dir"][0])
if name == "tts_inference":
    import wave
    keys = [line.split()[0] for line in open(values["key_file"][0])]
    files = ["norm/feats.scp", "speech_shape/speech_shape", "durations/durations"]
    for f in files:
        (out / f).parent.mkdir(parents=True)
        (out / f).write_text("".join(k + " of " + out.name + "\\n" for k in keys))
    for directory in ("wav", "att_ws"):
        (out / directory).mkdir()
    for k in keys[bool(os.environ.get("LOSE")):]:
        with wave.open(str(out / "wav" / (k + ".wav")), "wb") as f:
            f.setparams((1, 2, 8000, 0, "NONE", ""))
            f.writeframes(bytes(2 * int(k[1:])))
        (out / "att_ws" / (k + ".png")).write_text(k)
    rows = [dict(key=k, audio_seconds=2, total_seconds=1, peak_memory_mb=9)
            for k in keys]
elif "_inference" in name:
    best = out / "1best_recog"
    best.mkdir(parents=True)
    keys = [line.split()[0] for line in open(values["key_file"][0])]
    speakers = ["_spk1", "_spk2"] if "multi_asr" in values else [""]
    for f in [f + s for f in ("text", "token_int", "score", "token") for s in speakers]:
        found = keys[f == os.environ.get("LOSE"):]
        (best / f).write_text("".join(k + " 1 2\\n" for k in found))
        if name == "s2t_inference":
            (best / "text_nospecial").write_text("".join(k + " 1\\n" for k in keys))
        if name == "st_inference":
            first = out / "1asr_best_recog" / ("asr_" + f)
            first.parent.mkdir(exist_ok=True)
            first.write_text("".join(k + " 3\\n" for k in keys))
    rows = [dict(key=k, audio_seconds=2, total_seconds=1, peak_memory_mb=9)
            for k in keys]
elif name == "reference":
    out.mkdir(parents=True, exist_ok=True)
    rows = [dict(key=line.strip(), audio_seconds=2, total_seconds=4, peak_memory_mb=9)
            for line in open(values["key_file"][0])]
else:
    out.mkdir(parents=True, exist_ok=True)
    if name == "export":
        manifest = "graphs:\\n  encoder:\\n" + "  lm:\\n" * ("lm_file" in values)
        manifest += "  src_lm:\\n" * ("src_lm_file" in values)
        manifest += "ngram: " + ("x" if "ngram_file" in values else "null") + "\\n"
    else:
        manifest = Path(values["model_dir"][0], "manifest.yaml").read_text()
    (out / "manifest.yaml").write_text(manifest)
    rows = []
if rows:
    (out / "timing.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
print(name, "is done")
"""

SPLIT = """#!/usr/bin/env bash
for n in $(seq 2 $#); do
    awk -v n=$((n - 2)) -v k=$(($# - 1)) 'NR % k == n % k' "$1" > "${!n}"
done
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with the adapter, one test set of four utterances and one of one."""
    monkeypatch.chdir(tmp_path)
    make_recipe("asr")
    return tmp_path


def make_recipe(template):
    Path(f"{template}.sh").symlink_to(ROOT / f"egs2_stage/{template}.sh")
    Path(f"{template}.espnet.sh").write_text(driver(template))
    Path("utils").mkdir()
    for name in (f"exp/{template}/m.pth", "exp/lm/lm.pth"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("model")
    scripts = {"job": JOB, "mypython": PYTHON, "utils/split_scp.pl": SPLIT}
    for name, text in scripts.items():
        Path(name).write_text(text)
        Path(name).chmod(0o755)
    make_data("test_a", ["u1", "u2", "u3", "u4"])
    make_data("test_b", ["u1"])
    make_data("org/valid", ["v1"])


def make_data(name, keys, scp="wav.scp", feats_type="raw", audio_format="flac"):
    directory = Path("dump/raw", name)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / scp).write_text("".join(f"{key} {key}.flac\n" for key in keys))
    for text in ("text", "text.tc.en", "text_spk1", "text_spk2"):
        (directory / text).write_text("".join(f"{key} words\n" for key in keys))
    (directory / "feats_type").write_text(feats_type + "\n")
    lengths = "".join(f"{key} 16000\n" for key in keys)
    (directory / "utt2num_samples").write_text(lengths)
    (directory / "audio_format").write_text(audio_format + "\n")


def make_torch_decode(test_sets=("test_a", "test_b"), speakers=("",)):
    for name in test_sets:
        directory = Path("exp/asr/tag", name)
        directory.mkdir(parents=True)
        keys = [line.split()[0] for line in open(f"dump/raw/{name}/wav.scp")]
        for file in [f + s for f in ("text", "token_int", "score") for s in speakers]:
            (directory / file).write_text("".join(f"{k} 1 2\n" for k in keys))


def run(*args, env=(), template="asr"):
    """Run the adapter as run.sh does."""
    return subprocess.run(
        [f"./{template}.sh", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **dict(env)},
    )


def run_onnx(*args, **kwargs):
    return run("--onnx", "true", "--python", "./mypython", *args, **kwargs)


def driver_calls():
    """Return each call of ESPnet's driver: its name, its arguments, the stages run."""
    if not Path("driver_calls").exists():
        return []
    calls = []
    for line in Path("driver_calls").read_text().split("--\n"):
        calls.append(line.splitlines())
    return calls


def module_calls(name=None):
    if not Path("module_calls").exists():
        return []
    calls = [json.loads(line) for line in open("module_calls")]
    return calls if name is None else [args for n, args in calls if n == name]


def assert_refused(result, *messages):
    assert result.returncode == 1, result
    assert result.stderr.count("\n") == 1, result.stderr
    for message in messages:
        assert message in result.stderr


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
        (["--onnx_variants", ""], ["--onnx_variants", "at least one"]),
        (
            ["--onnx_variants", "fp32 int8", "--onnx_provider", "cuda"],
            ["int8 is for the CPU"],
        ),
        (
            ["--onnx_variants", "weight4", "--onnx_provider", "cuda"],
            ["weight4 is for the CPU"],
        ),
        (["--onnx_provider", "tpu"], ["--onnx_provider", "'tpu'"]),
        (["--onnx_threads", "0"], ["--onnx_threads", "'0'"]),
        (["--onnx_threads", "two"], ["--onnx_threads", "'two'"]),
        (["--onnx_nj", "-1"], ["--onnx_nj", "'-1'"]),
        (["--onnx_export_config", "no.yaml"], ["--onnx_export_config", "'no.yaml'"]),
        (["--onnx_quantize_config", ""], ["--onnx_quantize_config", "no such file"]),
        (["--stage", "x"], ["--stage", "'x'"]),
        (["--asr_task", "asr_transducer"], ["--asr_task asr_transducer"]),
        (["--use_k2", "true"], ["--use_k2"]),
        (["--use_streaming", "true"], ["--use_streaming"]),
        (["--use-maskctc", "true", "--use_lm", "true"], ["--use_lm false"]),
        (["--use_word_lm", "true"], ["--use_word_lm"]),
        (["--num_inf", "2"], ["--num_inf 2", "--num_ref 1"]),
        (["--num_inf", "2", "--num_ref", "3"], ["--num_inf 2", "--num_ref 3"]),
        (["--onnx_asr_model_dir", "exp"], ["--onnx_asr_model_dir is for tts.sh"]),
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
        "key_file": ["exp/asr/tag_onnx_fp32/test_a/logdir/keys.1.scp"],
        "batch_size": ["1"],
        "output_dir": ["exp/asr/tag_onnx_fp32/test_a/logdir/output.1"],
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


def test_mask_ctc_has_its_own_commands(recipe):
    make_torch_decode()
    args = ["--use_maskctc", "true", "--inference_args", "--maskctc_n_iterations 5"]
    result = run_onnx("--stage", "14", "--onnx_variants", "int8", *args)
    assert result.returncode == 0, result.stderr
    [quantized] = module_calls("quantize")
    assert quantized["inference_args"] == ["--maskctc_n_iterations 5"]
    decodes = module_calls("asr_inference_maskctc")
    assert len(decodes) == 3 + 1 + 2  # jobs of test_a and test_b, and their timing
    references = module_calls("reference")
    assert len(references) == 2
    assert all(c["inference"] == ["asr_inference_maskctc"] for c in references)
    for call in decodes + references:
        assert call["maskctc_n_iterations"] == ["5"]
        assert "lm_weight" not in call and "ngram_weight" not in call
    assert module_calls("asr_inference") == []


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
    assert (logdir / "output.3").is_dir()
    assert run_onnx(*args, "--onnx_nj", "1").returncode == 0
    assert sorted(path.name for path in logdir.iterdir()) == [
        "asr_inference.1.log",
        "keys.1.scp",
        "keys.scp",
        "output.1",
    ]


def test_lists_are_read_as_the_decoding_commands_read_them(recipe):
    make_data("test_a", [])
    lines = "\ufeffu1\tu1.flac\r\n\r\nu2 u2.flac\nu3\t\u2028.flac"
    Path("dump/raw/test_a/wav.scp").write_bytes(lines.encode("utf-8"))
    make_torch = Path("exp/asr/tag/test_a")
    shutil.rmtree(make_torch, ignore_errors=True)
    args = ["--stage", "14", "--onnx_variants", "fp32", "--test_sets", "test_a"]
    result = run_onnx(*args, "--onnx_nj", "8")
    assert "holds other utterances" not in result.stderr, result.stderr
    logdir = Path("exp/asr/tag_onnx_fp32/test_a/logdir")
    keys = logdir.glob("keys.*.scp")
    assert sorted(path.read_text() for path in keys) == ["u1\n", "u2\n", "u3\n"]
    text = Path("exp/asr/tag_onnx_fp32/test_a/text").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["u1", "u2", "u3"]


@pytest.mark.parametrize("module", ["export", "quantize", "asr_inference", "report"])
def test_a_failing_job_is_shown_and_ends_the_stage(recipe, module):
    result = run_onnx("--stage", "14", env={"FAIL": module})
    assert result.returncode == 1
    assert "the reason of the failure" in result.stderr
    assert ".log" in result.stderr.splitlines()[-1]
    assert module_calls()[-1][0] == module


def test_a_failing_scoring_is_shown(recipe):
    failing = 'echo "no scores today"; [[ $* != *" 13"* ]] || exit 3\n'
    Path("asr.espnet.sh").write_text(driver("asr").replace('all="$*"\n', failing))
    result = run_onnx("--stage", "14", "--onnx_variants", "fp32")
    assert result.returncode == 1
    assert "no scores today" in result.stderr and "score.log" in result.stderr


@pytest.mark.parametrize("text, args", [("text", []), ("text_spk2", SPEAKERS)])
def test_a_lost_utterance_is_an_error(recipe, text, args):
    args = ["--stage", "14", "--onnx_variants", "fp32", *args]
    result = run_onnx(*args, env={"LOSE": text})
    assert result.returncode == 1
    assert f"{text} holds other utterances" in result.stderr


@pytest.mark.parametrize("variants", ["fp32", "int8"])
def test_a_missing_model_names_the_stages(recipe, variants):
    result = run_onnx("--stage", "16", "--onnx_variants", variants)
    assert_refused(result, f"exp/asr/onnx/{variants}", "run stages 14 and 15")
    result = run_onnx("--stage", "15", "--onnx_variants", "int8")
    assert_refused(result, "exp/asr/onnx/fp32", "run stages 14 and 15")


# Translation


@pytest.fixture
def st_recipe(tmp_path, monkeypatch):
    """The same of st.sh, with the commands that its scoring needs."""
    monkeypatch.chdir(tmp_path)
    make_recipe("st")
    for name in ("sacrebleu", "detokenizer.perl"):
        Path("bin").mkdir(exist_ok=True)
        Path("bin", name).write_text("#!/bin/sh\n")
        Path("bin", name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def run_st(*args, **kwargs):
    args = ("--onnx", "true", "--python", "./mypython", *args)
    return run(*args, template="st", **kwargs)


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


# Whisper-style models


@pytest.fixture
def s2t_recipe(tmp_path, monkeypatch):
    """The same of s2t.sh."""
    monkeypatch.chdir(tmp_path)
    make_recipe("s2t")
    return tmp_path


def run_s2t(*args, **kwargs):
    args = ("--onnx", "true", "--python", "./mypython", *args)
    return run(*args, template="s2t", **kwargs)


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


# Spoken language understanding


@pytest.mark.parametrize("transcript", [False, True])
def test_a_transcript_is_read_where_the_recipe_says_so(
    tmp_path, monkeypatch, transcript
):
    monkeypatch.chdir(tmp_path)
    make_recipe("slu")
    result = run(
        *("--onnx", "true", "--python", "./mypython", "--stage", "14"),
        *("--onnx_variants", "fp32 int8", "--use_transcript", str(transcript).lower()),
        template="slu",
    )
    assert result.returncode == 0, result.stderr
    [export] = module_calls("export")
    assert export["task"] == ["slu"] and export["model_file"] == ["exp/slu/m.pth"]
    [quantize] = module_calls("quantize")
    valid = ["dump/raw/org/valid/transcript"] if transcript else None
    assert quantize.get("calibration_transcript") == valid
    expected = ["dump/raw/test_a/wav.scp,speech,sound"]
    if transcript:
        expected += ["dump/raw/test_a/transcript,transcript,text"]
    decode = module_calls("slu_inference")[0]
    assert decode["data_path_and_name_and_type"] == expected
    text = Path("exp/slu/tag_onnx_fp32/test_a/text").read_text()
    assert len(text.splitlines()) == 4


# Speech synthesis


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
    """The same of tts.sh, decoded by PyTorch."""
    monkeypatch.chdir(tmp_path)
    make_recipe("tts")
    make_torch_speech("test_a", ["u1", "u2", "u3", "u4"])
    make_torch_speech("test_b", ["u1"])
    Path("v.pkl").touch()
    Path("exp/asr").mkdir()
    Path("exp/asr/manifest.yaml").touch()
    return tmp_path


def run_tts(*args, **kwargs):
    args = ("--onnx", "true", "--python", "./mypython", *args)
    return run(*args, template="tts", **kwargs)


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
        "key_file": ["exp/tts/tag_onnx_fp32/test_a/log/keys.1.scp"],
        "batch_size": ["1"],
        "output_dir": ["exp/tts/tag_onnx_fp32/test_a/log/output.1"],
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
        *("durations", "feats_type", "norm/feats.scp", "speech_shape"),
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
    assert not list(directory.glob("log/output.*/wav"))
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
    assert "wav/wav.scp holds other utterances" in result.stderr


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


# A checkout of ESPnet


@pytest.mark.skipif("ESPNET_ROOT" not in os.environ, reason="ESPNET_ROOT is not set")
@pytest.mark.parametrize("name", ["asr", "st", "slu", "s2t", "tts"])
def test_espnets_own_driver(tmp_path, monkeypatch, name):
    templates = Path(os.environ["ESPNET_ROOT"]).resolve() / "egs2/TEMPLATE"
    recipe = tmp_path / "egs2/corpus" / f"{name}1"
    recipe.mkdir(parents=True)
    (recipe / f"{name}.sh").symlink_to(templates / f"{name}1/{name}.sh")
    for link in ("utils", "scripts", "pyscripts"):
        (recipe / link).symlink_to(templates / "asr1" / link)
    shutil.copy(templates / "asr1/cmd.sh", recipe)
    (recipe / "path.sh").write_text('export PATH="$PWD/utils:$PATH" LC_ALL=C\n')
    script = ROOT / "scripts/install_recipe.sh"
    subprocess.run([script, recipe], check=True, capture_output=True)
    monkeypatch.chdir(recipe)

    help_text = run("--help", template=name).stderr
    assert help_text.index("--inference_tag") < help_text.index("--onnx_variants")
    sets = ["--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    result = run(*sets, "--stage", "16", template=name)
    assert result.returncode == 0 and "Successfully finished" in result.stdout
    assert run(*sets, "--no_such_option", "1", template=name).returncode == 1
    sets += ["--onnx", "true"]
    if name not in ("slu", "tts"):  # whose drivers have no streaming
        result = run(*sets, "--use_streaming", "true", template=name)
        assert_refused(result, "--use_streaming true")
    last = ["--stage", "16", "--python", sys.executable]
    if name == "st":
        last += ["--skip_eval", "true", "--stage", "15"]
    result = run(*sets, *last, template=name)
    assert result.returncode == 1
    assert f"{name}_train_raw" in result.stderr
