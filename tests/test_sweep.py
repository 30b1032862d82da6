"""Every architecture of ESPnet's own recipes that builds without weights from a hub.

tests/data/architectures.yaml lists them; scripts/list_architectures.py makes it from a
checkout of ESPnet.
"""

import sys
from pathlib import Path

import pytest
import yaml

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.model import Checkpoints

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from sweeping.build import training_config  # noqa: E402
from sweeping.coverage import compare  # noqa: E402

pytestmark = pytest.mark.usefixtures("shared_graphs")

LIST = ROOT / "tests" / "data" / "architectures.yaml"
ARCHITECTURES = yaml.safe_load(LIST.read_text(encoding="utf-8"))


def cases(kind):
    return [
        pytest.param(a, id=a["name"])
        for a in ARCHITECTURES
        if a.get("excluded", "builds").partition(":")[0] == kind
    ]


@pytest.mark.parametrize("architecture", cases("builds"))
def test_results_are_espnets(architecture, tmp_path):
    compare(architecture, tmp_path)


@pytest.mark.parametrize("architecture", cases("transducer"))
def test_a_transducer_is_refused_by_name(architecture, tmp_path):
    config = yaml.safe_dump(training_config(architecture))
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "model.pth").touch()
    files = Checkpoints(tmp_path / "config.yaml", tmp_path / "model.pth")
    with pytest.raises(PluginError, match="'transducer'"):
        export_bundle(architecture["task"], files, tmp_path / "fp32")
