"""Claims of the README that a program can check."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Where each command of the README is run, and by which words.
RUN_BY = {
    "./run.sh --stage 14 --onnx true": ("scripts/demo.sh", "./run.sh --stage 14"),
    "scripts/demo.sh": (".ci/run", "step scripts/demo.sh"),
    "scripts/test.sh": (".ci/run", "step scripts/test.sh"),
    'scripts/test.sh --espnet 202511 -m "espnet and fast"': (
        ".ci/run",
        'step scripts/test.sh --espnet 202511 -m "espnet and fast"',
    ),
    "scripts/install_recipe.sh ESPNET/egs2/CORPUS/asr1": (
        "tests/test_install_recipe.py",
        "install_recipe.sh",
    ),
    "cd ESPNET/egs2/CORPUS/asr1": ("tests/test_install_recipe.py", "egs2"),
    "python -m pip install onnx onnxruntime onnxscript jiwer": (
        "egs2_stage/onnx_adapter.sh",
        "onnx_need_modules onnx onnxruntime onnxscript jiwer",
    ),
    "python -m espnet_onnx_plugin.bin.asr_inference": (
        ".ci/run",
        "python -m espnet_onnx_plugin.bin.asr_inference",
    ),
    "python -m espnet_onnx_plugin.bin.tts_inference": (
        "tests/test_tts.py",
        "bin.tts_inference",
    ),
    "python -m espnet_onnx_plugin.bin.svs_inference": (
        "tests/test_svs.py",
        "svs_inference.main(",
    ),
    "scripts/enhance.py": ("tests/test_enh_streaming.py", "enhance.main"),
    "python -m espnet_onnx_plugin.bin.enh_inference": (
        "tests/test_enh.py",
        "enh_inference.main(",
    ),
    "scripts/setup_env.sh export,optimize,report && . .venv/bin/activate": (
        ".ci/run",
        "step scripts/setup_env.sh export,optimize,report",
    ),
    "python scripts/benchmark.py": (".ci/run", "python scripts/benchmark.py --config"),
    "python scripts/gpu_check.py": (
        ".ci/run",
        "python scripts/gpu_check.py --provider",
    ),
}


def commands(text):
    """The shell commands that stand in a text's indented blocks."""
    outside = re.sub(r"(?s)```.*?```", "", text)
    for line in re.findall(r"(?m)^    (\S.*)$", outside):
        if line.startswith(("scripts/", "./", "cd ", "python ")):
            yield re.sub(r"\s{2,}#.*", "", line).removesuffix("\\").strip()


def test_every_command_of_the_readme_is_run():
    found = list(commands((ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(found) > 8
    for command in found:
        known = [known for known in RUN_BY if (command + " ").startswith(known + " ")]
        assert known, command
    for command, (file, words) in RUN_BY.items():
        assert any(c.startswith(command) for c in found), f"{command}: not in README"
        assert words in (ROOT / file).read_text(encoding="utf-8"), command


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "scripts/gpu_checking/README.md",
        ".ci/run",
    ],
)
def test_extras_that_are_named_exist(name):
    from configparser import ConfigParser

    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r'"?\.\[([a-z-_,0-9]+)\]"?', text)
    named += re.findall(r"setup_env\.sh ([a-z-_,0-9]+)", text)
    extras = set(setup["options.extras_require"])
    # Those with an underscore pip leaves out, with no more than a warning, before 23.3.
    assert not any("_" in extra for extra in extras)
    assert named and {*",".join(named).split(",")} <= extras, named


def test_the_support_table_is_the_registrys():
    path = ROOT / "scripts" / "support_table.py"
    spec = importlib.util.spec_from_file_location("support_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == module.with_table(readme), "run scripts/support_table.py"
    assert "| `encoder` | `conformer` |" in readme


def test_files_that_the_readme_names_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:scripts|conf|egs2_stage|tests|espnet_onnx_plugin)/[^` ]*)`", readme
    )
    assert len(named) > 5
    for name in named:
        if not set(name) & set("*<{"):
            assert (ROOT / name).exists(), name
