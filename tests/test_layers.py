"""Layers: every part is below those that may import it."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "espnet_onnx_plugin"

#: What each part may use of the others; every part may use errors.
ALLOWED = {
    "errors": set(),
    "packages": set(),
    "files": set(),
    "bundle": {"files"},
    "tasks": {"bundle"},
    "runtime": {"packages", "files", "bundle", "tasks"},
    "evaluate": {"packages", "files", "bundle", "tasks", "runtime"},
    "export": {"packages", "files", "bundle", "tasks", "runtime", "evaluate"},
    "optimize": {"packages", "files", "bundle", "tasks", "runtime", "evaluate"},
    "report": {"packages", "files", "bundle", "tasks", "runtime", "evaluate"},
    "quantize": {
        "packages",
        "files",
        "bundle",
        "tasks",
        "runtime",
        "evaluate",
        "optimize",
    },
}
ALLOWED["bin"] = set(ALLOWED)

#: What each room of the runtime may use of the others; doors may use every room.
ROOMS = {
    "core": set(),
    "io": {"core"},
    "text": {"io"},
    "search": {"core", "text"},
    "recognition": {"core", "io", "text", "search"},
    "enhancement": {"core", "io", "synthesis"},
    "synthesis": {"core", "io", "text"},
}

FOREIGN = {
    "torch",
    "torchaudio",
    "espnet",
    "espnet2",
    "espnet_model_zoo",
    "onnxscript",
}


def imports(path):
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


FILES = [
    p
    for p in sorted(PACKAGE.rglob("*.py"))
    if p.parent != PACKAGE or p.stem != "__init__"
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    part, room = part_of(path), path.parent.name
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "espnet_onnx_plugin" and len(parts) > 1:
            assert parts[1] in ALLOWED[part] | {part, "errors"}, name
            if room in ROOMS and parts[1] == "runtime":
                assert parts[2] in ROOMS[room] | {room}, name
        if parts[0] in FOREIGN:
            # The reference run of PyTorch is ESPnet's own inference, called.
            assert part == "export" or path.stem == "reference", name
        if parts[0] in ("onnx", "onnx_ir"):
            known = part in ("export", "optimize", "quantize")
            assert known or path.stem == "graph_file", name


def test_no_circles():
    """Imports that only a type checker reads count, too."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }
    graph = {name: modules.keys() & imports(path) for name, path in modules.items()}
    graphlib.TopologicalSorter(graph).prepare()  # it names a circle


BLOCK = """
import sys
blocked = "torch torchaudio espnet espnet2 onnx onnx_ir onnxscript nltk g2p_en jamo "
blocked += "jaconv pypinyin tacotron_cleaner vietnamese_cleaner whisper phonemizer"
for name in blocked.split():
    sys.modules[name] = None  # what Python itself uses to say "cannot be imported"
"""


def run(code, *args):
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *map(str, args)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )


def test_the_runtime_imports_without_torch_espnet_and_onnx():
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in (PACKAGE / "runtime").rglob("*.py")
    ]
    result = run(
        "import importlib\nfor m in sys.argv[1:]: importlib.import_module(m)", *modules
    )
    assert result.returncode == 0, result.stderr


def test_a_copied_bundle_decodes_without_torch_espnet_and_onnx(tiny, tmp_path):
    import shutil

    shutil.copytree(tiny["bundle"], tmp_path / "elsewhere")
    code = (
        "from espnet_onnx_plugin.bin.asr_inference import main\n" "main(sys.argv[1:])"
    )
    result = run(
        code,
        "--model_dir",
        tmp_path / "elsewhere",
        "--data_path_and_name_and_type",
        f"{tiny['data'] / 'wav.scp'},speech,sound",
        "--output_dir",
        tmp_path / "out",
        "--beam_size",
        "3",
    )
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "out" / "1best_recog" / "token_int").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["utt0", "utt1", "utt2", "utt3"]
    assert any(len(line.split()) > 1 for line in lines)


@pytest.mark.parametrize(
    "name",
    ["export", "optimize", "quantize", "asr_inference", "tts_inference", "verify"],
)
def test_help_imports_nothing_heavy(name):
    code = f"""
from espnet_onnx_plugin.bin.{name} import main
try:
    main(["--help"])
except SystemExit as e:
    assert e.code == 0
assert "onnxruntime" not in sys.modules, "onnxruntime"
assert "numpy" not in sys.modules, "numpy"
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
