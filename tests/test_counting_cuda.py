"""Launches, copies and waits of a GPU, counted on a machine without one.

They need the package onnxruntime-gpu beside the one that is installed:
``pip install --target DIR --no-deps onnxruntime-gpu``, and ``ONNXRUNTIME_GPU=DIR``.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import counting_cuda
import pytest
from conftest import save_tts
from hub_models import use_tiny_models
from test_parity import STEPS, make_step

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.graph import export_graphs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def count(tmp_path_factory):
    """Gives what a function of ``counting_cuda`` counts for bundles."""
    if "ONNXRUNTIME_GPU" not in os.environ:
        pytest.skip("no onnxruntime-gpu: set ONNXRUNTIME_GPU to its directory")
    package = Path(os.environ["ONNXRUNTIME_GPU"]).resolve()
    libraries = tmp_path_factory.mktemp("libraries")

    def run(name, *bundles):
        done = subprocess.run(
            [sys.executable, counting_cuda.__file__, libraries, name, *bundles],
            env={**os.environ, "PYTHONPATH": f"{package}:{ROOT}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def voice(tmp_path_factory):
    """The bundle of a tiny voice with a HiFi-GAN."""
    files = save_tts(
        "joint_text2wav", "fastspeech2_hifigan", tmp_path_factory.mktemp("voice")
    )
    checkpoints = Checkpoints(files["config"], files["file"])
    return export_bundle("tts", checkpoints, files["file"].parent / "onnx").path


def test_a_search_stays_on_the_gpu(count, tiny):
    counted = count("search", tiny["bundle"])
    steps = counting_cuda.STEPS
    runs = {name: of["runs"] for name, of in counted.items()}
    assert runs == {
        "frontend.onnx": 1,
        "encoder.onnx": 1,
        "frames of the search": 1,
        "decoder_memory.onnx": 1,
        "decoder.onnx": steps,
        "lm.onnx": steps,
        "search": steps,
    }
    fetched = {name: of["to_host"] for name, of in counted.items() if of["to_host"]}
    # Lengths, and what survives a step.
    assert fetched == {"frontend.onnx": 1, "encoder.onnx": 1, "search": steps}
    # Of 6 utterances' 4 hypotheses: parent, token, total, and three scores, as doubles.
    assert counted["search"]["bytes_to_host"] == steps * 6 * 6 * 4 * 8
    assert not any(of["plans"] for of in counted.values())
    # Their number decides how long a step takes.
    assert counted["search"]["launches"] <= 215 * steps
    assert (
        counted["search"]["to_gpu"] <= steps + 2
    )  # one input, and of two kinds of step


def test_steps_that_come_again_are_one_launch_each(count, tiny):
    counted = count("search_again", tiny["bundle"])
    steps = counting_cuda.STEPS
    for name in ("decoder.onnx", "lm.onnx", "search"):
        ours = counted[name]
        assert ours["runs"] == ours["repeated"] == ours["launches"] == steps
        assert not ours["recorded"]
    # Of a step: tokens, places, nodes, who sees them; twice, and who they are.
    assert sum(of["to_gpu"] for of in counted.values()) <= 11 * steps
    assert not any(of["unfit"] for of in counted.values())


def is_complete(arch):
    """Whether the packages that an architecture needs are there."""
    with contextlib.suppress(PluginError):
        arch.needs()
        return True
    return False


def test_the_steps_of_every_architecture_can_be_recorded(count, tmp_path, monkeypatch):
    use_tiny_models(monkeypatch)
    exported = []
    for case in STEPS:
        arch, name = case.values
        # Of the RNN decoder each attention.
        chosen = pytest.mark.more not in case.marks or arch.name == "rnn"
        if not chosen or not is_complete(arch):
            continue
        directory = tmp_path / case.id
        export_graphs(make_step(arch, name)[1], directory)
        exported.append(directory / "step.onnx")
    counted = count("repeat", *exported)
    assert len(counted) == len(exported) > 12
    wanted = dict(recorded=1, repeated=3, unfit=0)
    for path, of in counted.items():
        assert {name: of[name] for name in wanted} == wanted, path


def test_a_vocoder_plans_its_convolutions_once(count, voice):
    counted = count("speak", voice)
    assert counted["vocoder.onnx"]["plans"] == 0
    assert counted["vocoder.onnx"]["runs"] == 4 + 3  # of 128 frames each


def test_no_operator_waits_for_the_host(count, tiny, voice):
    counted = count("place", tiny["bundle"], voice)
    roles = {name.split()[-1] for name in counted}
    assert {"frontend", "encoder", "decoder", "lm", "vocoder"} <= roles
    assert not {name: ops for name, ops in counted.items() if ops}
