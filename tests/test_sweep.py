"""Every architecture of ESPnet's own recipes that builds without weights from a hub."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import graph
from espnet_onnx_plugin.export.task import task_model

ROOT = Path(__file__).parents[1]
ARCHITECTURES = yaml.safe_load(
    (ROOT / "tests" / "data" / "architectures.yaml").read_text(encoding="utf-8")
)
sys.path.insert(0, str(ROOT / "scripts"))
from sweeping.coverage import compare
def cases(choose):
    return [
        pytest.param(a, id=a["name"])
        for a in ARCHITECTURES
        if choose(a.get("excluded", "builds"))
    ]


@pytest.mark.parametrize("architecture", cases(lambda kind: kind == "builds"))
def test_results_are_espnets(architecture, tmp_path):
    compare(architecture, tmp_path)
