"""Variables that the adapters read, held against every real driver at hand."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from recipes import VARIABLES

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "egs2_stage"
DEMO = STAGE / "demo/asr1"

#: Sourced after the adapter of a template, for every one.
SHARED = ("onnx_adapter.sh", "onnx_options.sh", "onnx_stages.sh")

needs_espnet = pytest.mark.skipif(
    "ESPNET_ROOT" not in os.environ, reason="ESPNET_ROOT is not set"
)


def code(template: str) -> str:
    """The shell that runs in a template's recipes: no comments, no awk or Python."""
    text = "".join((STAGE / name).read_text() for name in (f"{template}.sh", *SHARED))
    text = re.sub(r"(?m)(^|\s)#.*$", "", text)
    strings = r'"(?:\\.|[^"\\])*"|\'[^\']*\''
    return re.sub(strings, lambda m: m[0] if m[0][0] == '"' else "", text)


def read_variables(template: str) -> "tuple[set[str], set[str]]":
    """Names that the adapter reads and does not set: all, and those with a default."""
    text = code(template)
    ours = set(re.findall(r"(?:^|[\s;(])(\w+)\+?=", text))
    ours |= set(re.findall(r"\b(?:for|mapfile -t|read -r)\s+(\w+)", text))
    for names in re.findall(r"\blocal ([^\n;]+)", text):
        ours |= set(re.findall(r"(?:^|\s)(\w+)", re.sub(r"=\S+", "", names)))
    everything, with_default = set(), set()
    for name, rest in re.findall(r"\$\{[#!]?([a-z]\w*)(?:\[[@*]\])?(.)", text):
        if name in ours or name.startswith("onnx"):
            continue
        everything.add(name)
        if rest in ":-+":
            with_default.add(name)
    bare = set(re.findall(r"\$\{#?([a-z]\w*)[}\[/#%]", text))
    return everything, with_default - bare


def set_variables(directory: Path, template: str) -> "set[str]":
    """Names that a driver has set when the adapter has sourced it."""
    sets = "--train_set a --valid_set b --test_sets c --lang en"
    if template == "st":
        sets = sets.replace("--lang en", "--src_lang en --tgt_lang de")
    result = subprocess.run(
        [
            *("bash", "-c"),
            f"set -euo pipefail; before=$(compgen -v); "
            f". ./{template}.espnet.sh {sets} --stage 100000 --skip_upload_hf true "
            "> /dev/null; comm -13 <(sort <<< ${before}) <(compgen -v | sort)",
            f"./{template}.sh",
        ],
        cwd=directory,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def espnets_recipe(directory: Path, template: str) -> Path:
    """A recipe of ESPnet's checkout whose driver stands where ours finds it."""
    templates = Path(os.environ["ESPNET_ROOT"]).resolve() / "egs2/TEMPLATE"
    (directory / f"{template}.espnet.sh").symlink_to(
        templates / f"{template}1/{template}.sh"
    )
    for link in ("utils", "scripts", "pyscripts"):
        (directory / link).symlink_to(templates / "asr1" / link)
    shutil.copy(templates / "asr1/cmd.sh", directory)
    (directory / "path.sh").write_text('export PATH="$PWD/utils:$PATH" LC_ALL=C\n')
    return directory


def test_variables_are_found():
    everything, with_default = read_variables("asr")
    assert {"asr_exp", "inference_tag", "num_inf", "batch_size"} <= everything
    assert {"num_ref", "skip_eval"} <= with_default
    assert not {"asr_exp", "test_sets"} & with_default


def test_the_demos_driver_sets_what_the_adapter_reads():
    everything, with_default = read_variables("asr")
    assert everything - with_default - set_variables(DEMO, "asr") == set()


def made_up(template: str) -> "set[str]":
    """Names that the made-up driver of recipes.py sets."""
    return set(re.findall(r"(\w+)=", VARIABLES[template]))


def test_the_made_up_driver_sets_what_the_demos_sets():
    # What the demo's lacks is read with a default, here or by onnx_refuse_options.
    optional = read_variables("asr")[1] | {"use_k2", "use_streaming"}
    assert made_up("asr") - optional - set_variables(DEMO, "asr") == set()


@needs_espnet
@pytest.mark.parametrize("template", sorted(VARIABLES))
def test_espnets_driver_sets_what_the_adapter_reads(tmp_path, template):
    everything, with_default = read_variables(template)
    really = set_variables(espnets_recipe(tmp_path, template), template)
    assert everything - with_default - really == set()


@needs_espnet
@pytest.mark.parametrize("template", sorted(VARIABLES))
def test_the_made_up_driver_sets_what_espnets_sets(tmp_path, template):
    really = set_variables(espnets_recipe(tmp_path, template), template)
    assert made_up(template) - really == set()


@needs_espnet
def test_espnets_list_of_diarization_ends_beside_other_scores(tmp_path):
    """As that of the made-up driver does."""
    recipe = espnets_recipe(tmp_path, "enh_diar")
    scores = recipe / "exp/diarized_enhanced_test/scoring"
    scores.mkdir(parents=True)
    rate = "OVERALL SPEAKER DIARIZATION ERROR = 12.50 percent (ALL)\n"
    (scores / "result_th0.3_med1_collar0").write_text(rate)
    # It tells the checkout's version.
    env = {**os.environ, "GIT_DIR": str(Path(os.environ["ESPNET_ROOT"], ".git"))}
    command = ["scripts/utils/show_diar_result.sh", "exp"]
    codes = [subprocess.run(command, cwd=recipe, env=env).returncode]
    (scores / "result_si_snr.txt").write_text("7.25\n")
    codes.append(subprocess.run(command, cwd=recipe, env=env).returncode)
    assert codes == [0, 1]
