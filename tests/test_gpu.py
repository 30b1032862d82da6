"""Needs of a GPU, on a machine without one: refusals, options, limits of memory."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import NO_SEARCH, NO_TEXT

from espnet_onnx_plugin.bundle import (
    Bundle,
    File,
    Framing,
    Graph,
    Manifest,
    Speech,
    Tensor,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core import gpu
from espnet_onnx_plugin.runtime.core.buckets import bucket, pad_waveforms
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device, check_fits
from espnet_onnx_plugin.runtime.core.graph_errors import MemoryShort
from espnet_onnx_plugin.runtime.core.providers import PROFILE, providers
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.recognition.decode import BatchLimits, Prepared, decode

ENCODER = Graph(
    File("encoder.onnx", 1, "a"),
    File("encoder.onnx.data", 1, "b"),
    inputs={
        "feats": Tensor("float32", ("utterances", "frames_in", 80)),
        "feats_lengths": Tensor("int64", ("utterances",)),
    },
    outputs={"encoder_out": Tensor("float32", ("utterances", "frames", 8))},
)
STEP = Graph(
    File("decoder.onnx", 1, "c"),
    None,
    inputs={"tokens": Tensor("int64", ("utterances", "hypotheses"))},
    outputs={},
)


class Driver:
    """The functions of libcuda that are called."""

    def __init__(self, error=0, count=1, version=13000, free=3, total=80):
        self._error, self._count, self._version = error, count, version
        self._memory = free << 30, total << 30

    def cuInit(self, flags):
        return self._error

    def cuDeviceGetCount(self, count):
        count._obj.value = self._count
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = self._version
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        return 0

    def cuCtxPushCurrent_v2(self, context):
        return 0

    cuCtxPopCurrent_v2 = cuDevicePrimaryCtxRelease_v2 = cuCtxPushCurrent_v2

    def cuMemGetInfo_v2(self, free, total):
        free._obj.value, total._obj.value = self._memory
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Sets the libraries of a machine with an onnxruntime for CUDA 13."""
    monkeypatch.setattr(gpu.ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(
        gpu.ort, "get_available_providers", lambda: [*PROVIDERS.values()]
    )
    monkeypatch.setattr(gpu.ort, "preload_dlls", lambda **_: None, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")

    def have(driver=None, missing=None):
        def load(library):
            name = Path(library).name
            if name == "libcuda.so.1" and driver is not None:
                return driver
            if name == "libcuda.so.1" or (missing and missing[0] in name):
                what = missing[1] if missing else name
                raise OSError(f"{what}: cannot open shared object file")

        gpu.start.cache_clear()
        monkeypatch.setattr(gpu, "_load", load)

    yield have
    gpu.start.cache_clear()


def started(provider="cuda"):
    """The line by which a provider is refused."""
    with pytest.raises(PluginError) as e:
        gpu.start(provider)
    assert "\n" not in str(e.value)
    return str(e.value)


# What is missing


def test_an_onnxruntime_without_cuda_is_refused(monkeypatch):
    versions = {}
    monkeypatch.setattr(gpu, "_version", versions.get)
    monkeypatch.setattr(gpu.ort, "get_available_providers", lambda: [PROVIDERS["cpu"]])
    Device("cpu")
    with pytest.raises(PluginError, match="pip install 'onnxruntime-gpu.*, or use"):
        Device("cuda")
    versions["onnxruntime-gpu"] = "1.31.1"
    command = "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1"
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(PluginError, match=f"installed over .* {command}"):
            Device(provider)


def test_what_an_uninstall_leaves_is_refused(monkeypatch):
    gpu.check_module()
    monkeypatch.setattr(gpu, "ort", types.ModuleType("onnxruntime"))
    versions = {"onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(gpu, "_version", versions.get)
    for check in (gpu.check_module, Device):
        with pytest.raises(PluginError, match="lost files .* onnxruntime-gpu==1.31.1"):
            check()


def test_what_an_uninstall_leaves_is_refused_before_it_is_used(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").touch()
    root = Path(__file__).parents[1]
    for module in ("runtime.asr", "runtime.core.session", "runtime.core.values"):
        done = subprocess.run(
            [sys.executable, "-c", f"import espnet_onnx_plugin.{module}"],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "PluginError: package onnxruntime" in done.stderr.splitlines()[-1]


def test_a_machine_without_a_gpu_is_refused(machine, monkeypatch):
    machine()
    assert "no driver of NVIDIA's (libcuda.so.1: cannot open" in started()
    none = Driver(error=gpu._NO_DEVICE), Driver(count=0)
    for driver in none:
        machine(driver)
        assert "no GPU for this process; ask for one" in started()
    for value in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        machine(none[0])
        assert f"CUDA_VISIBLE_DEVICES is '{value}'; ask for one" in started()
    machine(Driver(error=999))
    assert "CUDA error 999" in started()


def test_another_cuda_is_refused(machine):
    machine(Driver(version=12080))
    line = started()
    assert "driver of this GPU is for CUDA 12" in line and "built for CUDA 13.0" in line
    machine(Driver(version=13020))
    gpu.start("cuda")


def test_a_missing_library_is_named(machine):
    wanted = f"'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}'"
    for of, name in (
        ("providers_cuda", "libcublasLt.so.13"),
        ("libcudnn", "libcudnn.so.9"),
    ):
        machine(Driver(), missing=(of, name))
        line = started()
        assert f"cannot start cuda ({name}: cannot open shared object file)" in line
        assert f"pip install {wanted}, or use provider cpu" in line
    machine(Driver(), missing=("providers_tensorrt", "libnvinfer.so.10"))
    gpu.start("cuda")
    line = started("tensorrt")
    assert "cannot start tensorrt (libnvinfer.so.10" in line
    assert "pip install 'tensorrt-cu13==10.*'" in line


class Opened:
    """A session of onnxruntime that runs nothing."""

    providers = [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    asked: list = []
    error = "no error"

    def __init__(self, path, options, providers, enable_fallback):
        assert not enable_fallback
        type(self).asked = providers

    def get_providers(self):
        return self.providers

    def get_inputs(self):
        return []

    def get_outputs(self):
        return [types.SimpleNamespace(name=name) for name in ENCODER.outputs]

    def io_binding(self):
        return types.SimpleNamespace(bind_output=lambda *_: None)

    def run_with_iobinding(self, binding, options):
        raise RuntimeError(self.error)


@pytest.fixture
def opened(machine, monkeypatch):
    """A class that stands for onnxruntime's session, on a machine with a GPU."""
    machine(Driver())
    opened = type("Session", (Opened,), {})
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    return opened


def session(provider="cuda", **graphs):
    graphs = graphs or {"encoder": ENCODER}
    manifest = Manifest("asr", graphs, None, NO_TEXT, NO_SEARCH)
    return Session(Bundle(Path("b"), manifest), next(iter(graphs)), Device(provider))


def test_the_cpu_does_not_stand_in(opened):
    assert session().graph is ENCODER
    opened.providers = [PROVIDERS["cpu"]]
    with pytest.raises(PluginError, match="would run on the CPU"):
        session()


def test_quantized_bundles_are_for_the_cpu(machine):
    manifest = Manifest("asr", {}, None, NO_TEXT, NO_SEARCH, precision="int8")
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(PluginError, match="quantized for the CPU"):
            check_fits(Bundle(Path("b"), manifest), Device(provider))


@pytest.mark.parametrize("made_for, refused", [("cpu", True), ("cuda", False)])
def test_optimized_bundles_are_for_their_device(made_for, refused, machine):
    source = {"made_by": {"step": "optimize", "provider": made_for}}
    manifest = Manifest("asr", {}, None, NO_TEXT, NO_SEARCH, source=source)
    bundle = Bundle(Path("b"), manifest)
    check_fits(bundle, Device())  # where those for a GPU are compared
    for provider in ("cuda", "tensorrt"):
        if not refused:
            check_fits(bundle, Device(provider))
            continue
        with pytest.raises(PluginError, match="b is optimized for the CPU.*fp32"):
            check_fits(bundle, Device(provider))


# Options


def test_options_of_cuda(machine):
    [(name, options)] = providers(Device("cuda"), ENCODER)
    assert name == PROVIDERS["cuda"]
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["cudnn_conv1d_pad_to_nc1d"] == "1"
    assert options["enable_skip_layer_norm_strict_mode"] == "1"
    assert options["use_tf32"] == "0"
    [(_, options)] = providers(Device("cuda", tf32=True), ENCODER)
    assert options["use_tf32"] == "1"


def test_options_of_tensorrt(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = Device("tensorrt")
    (name, options), (other, _) = providers(device, ENCODER, "fp16")
    assert (name, other) == (PROVIDERS["tensorrt"], PROVIDERS["cuda"])
    assert options["trt_fp16_enable"] == "1"
    assert options["trt_profile_min_shapes"] == "feats:1x128x80,feats_lengths:1"
    assert options["trt_profile_max_shapes"] == "feats:64x4096x80,feats_lengths:64"
    assert bucket(1) == PROFILE["frames_in"][0]
    cache = Path(options["trt_engine_cache_path"])
    assert cache.is_dir() and cache.is_relative_to(tmp_path)
    # A decoder's sizes grow: it runs by CUDA.
    [(name, _)] = providers(device, STEP)
    assert name == PROVIDERS["cuda"]
    (_, options), _ = providers(device, ENCODER)
    assert options["trt_fp16_enable"] == "0"


def test_tensorrt_takes_a_graph_in_pieces(opened, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened.providers = [*PROVIDERS.values()]
    genuine = opened.__init__

    def refuse(self, path, options, providers, **more):
        if "trt_profile_min_shapes" in providers[0][1]:
            raise RuntimeError("input(s) has no associated shape profiles provided: x")
        genuine(self, path, options, providers, **more)

    monkeypatch.setattr(opened, "__init__", refuse)
    session("tensorrt")
    (name, options), _ = opened.asked
    assert name == PROVIDERS["tensorrt"] and options["trt_engine_cache_enable"] == "1"
    assert not any("profile" in name for name in options)


# Memory


def test_memory_that_is_short_is_told(opened):
    encoder = session()
    feeds = dict(feats=np.zeros((32, 2048, 80)), feats_lengths=np.zeros(32))
    opened.error = "Failed to allocate memory for requested buffer of size 5368709120"
    with pytest.raises(MemoryShort) as e:
        encoder.run(feeds, ())
    assert str(e.value) == (
        "the GPU's memory does not hold a batch of 32 utterances, 2048 frames in "
        "encoder.onnx, which needs 5.00 GiB more; 3.00 of 80.0 GiB are free; use a "
        "smaller --batch_size or --batch_bins"
    )
    for opened.error in ("CUDA failure 2: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"):
        with pytest.raises(MemoryShort, match="does not hold a batch of 1 utterances"):
            encoder.run({"feats_lengths": np.zeros(1)}, ())
    opened.error = "Invalid rank"
    with pytest.raises(PluginError, match="encoder.onnx failed: Invalid rank"):
        encoder.run(feeds, ())

    def fail(*args, **more):
        raise RuntimeError(opened.error)

    opened.__init__, opened.error = fail, "CUDA failure 2: out of memory"
    with pytest.raises(PluginError, match="not hold b/encoder.onnx; 3.00 of 80.0 GiB"):
        session()
    failure = "CUDA failure 46: all CUDA-capable devices are busy or unavailable"
    opened.error = f"/onnxruntime_src/onnxruntime/core CudaCall(ERRTYPE) {failure}"
    with pytest.raises(PluginError, match=rf"\({failure}\); see what nvidia-smi says"):
        session()


class TooSmall:
    """A model for which more than two utterances are too many."""

    speech = Speech("waveform", 8000, feature_dim=0, min_length=1)
    device = Device()
    timing = None

    def __init__(self):
        self.batches = []

    def prepare(self, speech):
        return speech

    def batch(self, utterances):
        self.batches.append([len(utterance) for utterance in utterances])
        raise MemoryShort("the GPU's memory")


def test_a_batch_that_is_too_large_ends_the_job():
    audio = [(f"u{n}", Audio(np.zeros(n), 8000)) for n in (3, 1, 2)]
    for limits in (BatchLimits(3), BatchLimits(bins=9)):
        model = TooSmall()
        with pytest.raises(MemoryShort):
            list(decode(model, audio, limits))
        assert model.batches == [[3, 2, 1]]


# Batches


@pytest.mark.parametrize(
    "limits, batches",
    [
        (BatchLimits(), [[9], [4], [4], [3], [1]]),
        (BatchLimits(2), [[9, 4], [4, 3], [1]]),
        (BatchLimits(bins=8), [[9], [4, 4], [3, 1]]),
        (BatchLimits(2, 100), [[9, 4], [4, 3], [1]]),
        (BatchLimits(1, 18), [[9, 4], [4, 3, 1]]),
        (BatchLimits(bins=100), [[9, 4, 4, 3, 1]]),
    ],
)
def test_batches_stay_within_limits(limits, batches):
    sizes = dict(zip("abcde", (4, 1, 9, 3, 4)))
    found = [[sizes[key] for key in batch] for batch in limits.batches(sizes)]
    assert found == batches


def test_what_is_read_ahead_has_limits():
    def endless():
        while True:
            yield Prepared("u", np.zeros(10, np.float32), 1.0)

    lengths = [
        len(limits.window(endless()))
        for limits in (BatchLimits(), BatchLimits(2), BatchLimits(bins=50))
    ]
    assert lengths == [1, 32, 80]


def test_lengths_are_few():
    found = [bucket(length) for length in range(1, 4097)]
    assert len(set(found)) == 41
    for length, padded in enumerate(found, 1):
        assert length <= padded <= max(128, length * 9 / 8)


def windows(waveform, framing):
    """Samples of each frame, where a frontend reflects a waveform at its ends."""
    waveform = np.pad(waveform, framing.pad, mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(waveform, framing.n_fft)
    return views[:: framing.hop_length]


@pytest.mark.parametrize(
    "framing",
    [Framing(64, 32, 64, True), Framing(50, 20, 64, True), Framing(64, 32, 64)],
)
def test_waveforms_in_a_batch_have_the_frames_that_they_have_alone(framing):
    random = np.random.default_rng(0)
    hop, edge = framing.hop_length, framing.edge
    # Some have as many frames as there are in a bucket, to the sample.
    whole = [edge + (frames - 1) * hop for frames in (128, 256)]
    for longest in [framing.shortest, 500, *(n + i for n in whole for i in (-1, 0, 1))]:
        for others in ((), (framing.shortest, longest - 1, longest - hop)):
            lengths = [longest, *(max(n, framing.shortest) for n in others)]
            waveforms = [random.standard_normal(n).astype(np.float32) for n in lengths]
            batch = pad_waveforms(waveforms, framing)
            assert batch.dtype == np.float32
            together = [windows(row, framing) for row in batch]
            assert bucket(len(together[0])) == len(together[0])
            for waveform, rows in zip(waveforms, together):
                alone = windows(waveform, framing)
                np.testing.assert_array_equal(rows[: len(alone)], alone)
                reflected = framing.pad // hop + 1
                assert len(rows) <= bucket(
                    len(windows(waveforms[0], framing)) + reflected
                )
