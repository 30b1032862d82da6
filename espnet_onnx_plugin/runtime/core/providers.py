"""onnxruntime's execution providers, with their options."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from espnet_onnx_plugin.bundle import Graph, Precision
from espnet_onnx_plugin.runtime.core.buckets import SHORTEST
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device

#: A provider's options by name.
Options = dict[str, str]

#: Sizes that TensorRT makes an engine for, by axis of a graph's inputs: the smallest,
#: the one that it is fastest for, and the largest. A frame is 10 ms as a rule.
PROFILE = {"utterances": (1, 8, 64), "frames_in": (SHORTEST, 1024, 4096)}


def providers(
    device: Device, graph: Graph | None = None, precision: Precision = "fp32"
) -> list[tuple[str, Options]]:
    """onnxruntime's providers that may run a graph, the first choice first.

    Args:
        device: where it runs.
        graph: its description, where it is one of a bundle.
        precision: that of the bundle.
    """
    if device.provider == "cpu":
        return [(PROVIDERS["cpu"], {})]
    chosen = [(PROVIDERS["cuda"], cuda_options(device))]
    if device.provider == "tensorrt" and graph is not None and takes_tensorrt(graph):
        options = tensorrt_options(device, graph, precision)
        chosen.insert(0, (PROVIDERS["tensorrt"], options))
    return chosen


def cuda_options(device: Device) -> Options:
    """Options of CUDA."""
    return {
        # To try every algorithm of a convolution, which is the default, takes longer
        # than the convolutions of an utterance: every length is tried anew.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Convolutions over time alone become those of images one pixel high, as in
        # PyTorch, and not one pixel wide: cuDNN is made for the former.
        "cudnn_conv1d_pad_to_nc1d": "1",
        # The default grows to powers of two, up to twice of what is in use.
        "arena_extend_strategy": "kSameAsRequested",
        # Into the normalization of a layer, onnxruntime fuses the sum before it, and
        # takes mean and variance of float16 in float16 then, unless told not to.
        "enable_skip_layer_norm_strict_mode": "1",
        "use_tf32": str(int(device.tf32)),
    }


def recording(provider: str, options: Options) -> Options:
    """A provider's options, where CUDA may record a run and repeat it as one launch."""
    if provider != PROVIDERS["cuda"]:
        return options
    return {**options, "enable_cuda_graph": "1"}


def _without(prefix: str, options: Options) -> Options:
    return {name: v for name, v in options.items() if not name.startswith(prefix)}


#: What a provider's options become where a graph is refused, by what its error has.
#: TensorRT takes a graph in pieces, whose inputs have no names that we know: it makes
#: their engines for the shapes that come then. And a graph that does something on the
#: host is not recorded.
REFUSED: Mapping[str, Callable[[Options], Options]] = {
    "shape profile": partial(_without, "trt_profile"),
    "graph capture": partial(_without, "enable_cuda_graph"),
}


def takes_tensorrt(graph: Graph) -> bool:
    """Whether TensorRT runs a graph: one of an encoder, whose sizes are known ahead.

    A decoder's grow with every token, and each new one would be an engine of its own.
    """
    axes = {axis for tensor in graph.inputs.values() for axis in tensor.axes}
    return {axis for axis in axes if isinstance(axis, str)} == set(PROFILE)


def tensorrt_options(device: Device, graph: Graph, precision: Precision) -> Options:
    """Options of TensorRT, whose engines are kept for the next process."""
    cache = engine_cache(device, graph)
    cache.mkdir(parents=True, exist_ok=True)
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache.parent),
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_bf16_enable": str(int(str(precision) == "bf16")),
        "trt_layer_norm_fp32_fallback": "1",
    }
    for i, name in enumerate(("min", "opt", "max")):
        sizes = {axis: of_axis[i] for axis, of_axis in PROFILE.items()}
        options[f"trt_profile_{name}_shapes"] = shapes(graph, sizes)
    return options


def shapes(graph: Graph, sizes: Mapping[str, int]) -> str:
    """Shapes of a graph's inputs as TensorRT reads them, given the sizes of axes."""
    return ",".join(
        f"{name}:" + "x".join(str(sizes.get(str(axis), axis)) for axis in tensor.axes)
        for name, tensor in graph.inputs.items()
    )


def engine_cache(device: Device, graph: Graph) -> Path:
    """The folder of a graph's engines: no bundle is changed, and many are read-only.

    TensorRT names engines by GPU, release and graph, but not by its weights.
    """
    files = [file for file in (graph.file, graph.weights) if file is not None]
    name = " ".join([*(file.sha256 for file in files), f"tf32={device.tf32}"])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(name.encode()).hexdigest()[:32]
    return root / "espnet_onnx_plugin" / "tensorrt" / key
