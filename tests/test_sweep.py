"""Every architecture of ESPnet's own recipes that builds without weights from a hub.

tests/data/architectures.yaml lists them; scripts/list_architectures.py makes it from a
checkout of ESPnet.
"""

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import graph
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.model import Checkpoints

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from sweeping.build import training_config  # noqa: E402
from sweeping.coverage import compare  # noqa: E402

LIST = ROOT / "tests" / "data" / "architectures.yaml"
ARCHITECTURES = yaml.safe_load(LIST.read_text(encoding="utf-8"))


def cases(kind):
    return [
        pytest.param(a, id=a["name"])
        for a in ARCHITECTURES
        if a.get("excluded", "builds").partition(":")[0] == kind
    ]


class Fingerprint(pickle.Pickler):
    """Pickles modules and tensors as what they hold: torch writes addresses and ids."""

    def reducer_override(self, obj):
        import torch

        if isinstance(obj, torch.nn.Module):
            held = [item for item in vars(obj).items() if "state_dict" not in item[0]]
            return dict, ([("type", type(obj)), *held],)
        if isinstance(obj, torch.Tensor):
            content = obj.detach().numpy().tobytes()
            return str, (f"{type(obj)} {obj.dtype} {obj.shape} {content}",)
        return NotImplemented


def fingerprint(*values):
    """A name for values that hold the same; None where one cannot be pickled."""
    written = io.BytesIO()
    try:
        Fingerprint(written).dump(values)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


@pytest.fixture
def shared_graphs(tmp_path_factory, monkeypatch):
    """Export a module once: architectures have parts, with their weights, in common.

    What is alike is what pickles to the same bytes: every layer, setting and weight.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers' common one
    root = root / "graphs"
    root.mkdir(exist_ok=True)
    export_graph = graph.export_graph

    def export_once(module, example, inputs, outputs, path):
        name = fingerprint(module, example, dict(inputs), dict(outputs), path.name)
        if name is None:
            export_graph(module, example, inputs, outputs, path)
            return
        kept = root / name
        if not kept.exists():
            aside = tmp_path_factory.mktemp("graph")
            export_graph(module, example, inputs, outputs, aside / path.name)
            with contextlib.suppress(OSError):  # another worker was faster
                aside.rename(kept)
        shutil.copytree(kept, path.parent, dirs_exist_ok=True)

    monkeypatch.setattr(graph, "export_graph", export_once)


@pytest.mark.parametrize("architecture", cases("builds"))
def test_results_are_espnets(architecture, tmp_path, shared_graphs):
    compare(architecture, tmp_path)


@pytest.mark.parametrize("architecture", cases("transducer"))
def test_a_transducer_is_refused_by_name(architecture, tmp_path):
    config = yaml.safe_dump(training_config(architecture))
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "model.pth").touch()
    files = Checkpoints(tmp_path / "config.yaml", tmp_path / "model.pth")
    with pytest.raises(PluginError, match="'transducer'"):
        export_bundle(architecture["task"], files, tmp_path / "fp32")
