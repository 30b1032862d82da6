"""The adapters in a checkout of ESPnet, with its own drivers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import ROOT, assert_refused, run


@pytest.mark.skipif("ESPNET_ROOT" not in os.environ, reason="ESPNET_ROOT is not set")
@pytest.mark.parametrize(
    "name", ["asr", "st", "slu", "s2t", "tts", "enh", "enh_asr", "enh_diar"]
)
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
    assert help_text.index("--test_sets") < help_text.index("--onnx_variants")
    sets = ["--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    result = run(*sets, "--stage", "16", template=name)
    assert result.returncode == 0 and "Successfully finished" in result.stdout
    assert run(*sets, "--no_such_option", "1", template=name).returncode == 1
    sets += ["--onnx", "true"]
    streaming = ["--use_streaming", "true"]
    if name == "s2t":
        assert_refused(run(*sets, *streaming, template=name), "--use_streaming true")
    last = ["--stage", "16", "--python", sys.executable]
    if name == "st":
        last += ["--skip_eval", "true", "--stage", "15"]
    if name.startswith("enh"):  # whose scoring may be missing
        last += ["--stage", "15", "--stop_stage", "15"]
    for way in ([], streaming) if name in ("asr", "st") else ([],):
        result = run(*sets, *last, *way, template=name)
        assert result.returncode == 1
        model = "diar_enh" if name == "enh_diar" else name
        assert f"{model}_train_raw" in result.stderr
