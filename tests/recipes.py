"""Made-up recipes: drivers, jobs and a python that write down what they are asked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
[ -z "${diar_tag-}" ] || diar_exp=exp/enh_${diar_tag}
[ -z "${ref_num-}" ] || inf_num=${inf_num:=${ref_num}}
inference_asr_tag=${inference_asr_tag:-asr}
for n in $(seq "${stage}" "$((stop_stage < 15 ? stop_stage : 15))"); do
    [[ " ${skip_stages-} " == *" ${n} "* ]] || echo "RAN ${n}" >> driver_calls
    [ "$(type -t made_up_stage)" != function ] || made_up_stage
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
    enh=f"""{GENERAL.replace("inference_config=;", "")}
    dumpdir=dump; enh_exp=exp/enh; inference_model=m.pth; fs=8k; inference_enh_config=
    is_tse_task=false; ref_num=1; inf_num=; variable_num_refs=false
    score_with_asr=false; inference_asr_tag=
    made_up_stage() {{
        for name in ${{valid_set}} ${{test_sets}}; do
            mkdir -p "${{enh_exp}}/${{inference_tag}}_${{name}}/scoring"
            cd "${{enh_exp}}/${{inference_tag}}_${{name}}/scoring"
            echo 7.25 > result_si_snr.txt
            cd - > /dev/null
        done
    }}
    """,
    enh_asr=f"""{GENERAL.replace("inference_args=", "")} {SEARCH}
    enh_asr_exp=exp/enh_asr; inference_enh_asr_model=m.pth; use_k2=false
    use_word_lm=false; ngram_exp=exp/ngram; inference_ngram=n.bin; fs=8k
    dumpdir=dump; asr_inference_args=; enh_inference_args=; inference_enh_tag=enhanced
    inference_enh_config=; spk_num=1; use_speech_ref=true
    """,
    enh_diar=f"""{GENERAL.replace("inference_args=", "")}
    diar_tag=diar; diar_exp=exp/enh_diar; inference_model=m.pth; fs=8k; spk_num=2
    download_model=; dumpdir=dump
    made_up_stage() {{
        for name in ${{test_sets}}; do
            mkdir -p "${{diar_exp}}/diarized_enhanced_${{name}}/scoring"
            cd "${{diar_exp}}/diarized_enhanced_${{name}}/scoring"
            if [ "${{n}}" -eq 7 ]; then
                echo "OVERALL SPEAKER DIARIZATION ERROR = 12.50 percent (ALL)" \
                    > result_th0.3_med1_collar0
                sed s/12.50/8.25/ result_th0.3_med1_collar0 > result_th0.5_med1_collar0
                # As ESPnet's, whose list of results ends there
                [ -z "$(grep -L OVER result_*)" ] || exit 1
            fi
            [ "${{n}}" -ne 8 ] || echo 7.25 > result_si_snr.txt
            cd - > /dev/null
        done
    }}
    """,
    tts=f"""{GENERAL}
    tts_exp=exp/tts; inference_model=m.pth; train_set=train; dumpdir=dump
    vocoder_file=none; teacher_dumpdir=; skip_scoring=false; spk_embed_tag=embed
    use_spk_embed=false; use_sid=false; use_lid=false
    """,
    svs=f"""{GENERAL}
    svs_exp=exp/svs; inference_model=m.pth; train_set=train; dumpdir=dump
    svs_task=svs; vocoder_file=none; teacher_dumpdir=; skip_versa=true
    use_xvector=false; use_sid=false; use_lid=false
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


def manifest_text(graphs=("encoder",), ngram=False):
    """A manifest with these graphs, though with no files."""
    file = "{name: x, size: 0, sha256: ''}"
    graph = f"{{file: {file}, weights: null, inputs: {{}}, outputs: {{}}}}"
    lines = ["format_version: 5", "task: asr", "speech: null", "search: null"]
    lines += [f"text: {{token_type: char, token_list: {file}}}", "graphs:"]
    lines += [f"  {name}: {graph}" for name in graphs]
    return "\n".join([*lines, f"ngram: {file if ngram else 'null'}", ""])


# Stands for the recipe's python: writes down its calls; the tables are really made.
# What the environment's REALLY names is really run.
PYTHON = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
sys.path.append({str(ROOT / "tests")!r})
args = sys.argv[1:]
if args[0] == "-c":
    missing = os.environ.get("NO_MODULES", "")
    print(*[name for name in args[2:] if name in missing.split()])
    sys.exit(int(bool(missing) and missing in args[1]))
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
if name in ("sample", "report", *os.environ.get("REALLY", "").split()):
    without_plots = "import runpy, sys; sys.modules['matplotlib'] = None; "
    without_plots += "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
    os.execv(sys.executable, [sys.executable, "-c", without_plots, *args[1:]])
if name in ("resume", "merge"):
    from standins import recipe_decode
    recipe_decode(name, values, args[2:])
    sys.exit()
out = Path(values["output_dir"][0])
if "_inference" in name:
    from standins import write_job
    write_job(name, values, out)
    rows = []
elif name == "reference":
    out.mkdir(parents=True, exist_ok=True)
    rows = [dict(key=line.strip(), audio_seconds=2, total_seconds=4, peak_memory_mb=9)
            for line in open(values["key_file"][0])]
else:
    out.mkdir(parents=True, exist_ok=True)
    if name == "export":
        names = ["encoder", *(n for n in ("lm", "src_lm") if n + "_file" in values)]
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from recipes import manifest_text
        manifest = manifest_text(names, "ngram_file" in values)
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
    """Run the adapter with our stages, and the stand-in for the recipe's python."""
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
    # The directory of a run's jobs has another name in each run.
    text = re.sub(r"/run\.\d+\.\d+/", "/run/", Path("module_calls").read_text())
    calls = [json.loads(line) for line in text.splitlines()]
    return calls if name is None else [args for n, args in calls if n == name]


def assert_refused(result, *messages):
    assert result.returncode == 1, result
    assert result.stderr.count("\n") == 1, result.stderr
    for message in messages:
        assert message in result.stderr
