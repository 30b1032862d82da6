"""What the README says that a program can check."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
