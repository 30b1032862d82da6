"""Docstrings say what they are about: they begin with a noun or a verb."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for part in ("espnet_onnx_plugin", "scripts", "egs2_stage", "tests")
    for path in sorted((ROOT / part).rglob("*.py"))
]

#: Beginnings after which a reader still waits for the subject.
EMPTY = re.compile(r"(What|Of|That|Which|Those|The same|See|It) ")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds):
            text = ast.get_docstring(node) or ""
            assert not EMPTY.match(text), f"line {node.body[0].lineno}: {text}"
