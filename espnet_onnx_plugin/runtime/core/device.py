"""The device that graphs run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from espnet_onnx_plugin.bundle import Bundle, Graph
from espnet_onnx_plugin.bundle.typed import check_types, option
from espnet_onnx_plugin.errors import PluginError

#: onnxruntime's names.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True)
class Device:
    """A device and how graphs run on it.

    The defaults are what measured best, on utterances of several lengths and two cores.

    Attributes:
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: threads of one operator on the CPU.
        shared: whether the arena is one pool for all graphs; of its own, a vocoder
            takes a third less (499 MiB for 756 of 8 s of speech).
        resident: whether a search over several utterances keeps its scores where the
            graphs run, see :attr:`resident_from`; default: on a GPU.
        buckets: whether frontend, encoder and vocoder see few lengths, see
            :mod:`.buckets`; default: on a GPU.
        cuda_graphs: see :mod:`.replay`; on the CPU it is but tried.
        emulate: whether it may run a bundle that is made for another device: with the
            same result, however slowly.
        watch: called before every run of a graph, with its inputs by name.
    """

    provider: str = "cpu"
    threads: int = 1
    # 6 to 11 % slower with two threads
    spinning: bool = option(False, "threads that wait for work keep their core busy")
    # without: 2 to 7 % slower
    arena: bool = option(True, "freed memory is kept for the next utterance")
    shared: bool = True
    # no faster, and 40 to 85 MiB more: the next utterance has other shapes
    memory_pattern: bool = option(
        False, "memory is planned for the first utterance's shape"
    )
    tf32: bool = option(
        False, "a GPU multiplies float32 in TF32: faster, with 10 bits of mantissa"
    )
    # not measured yet
    cuda_graphs: bool = option(
        False,
        "a GPU repeats steps of a search as one launch each; one thread at a time",
    )
    resident: bool | None = None
    buckets: bool | None = None
    emulate: bool = False
    watch: Callable[[Graph, Mapping[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        plain = {name: v for name, v in vars(self).items() if name != "watch"}
        check_types(Device, plain)
        if self.provider not in PROVIDERS:
            raise PluginError(
                f"provider '{self.provider}' is unknown; use one of "
                + ", ".join(PROVIDERS)
            )
        if self.threads < 1:
            raise PluginError(f"number of threads {self.threads} must be 1 or more")
        from espnet_onnx_plugin.runtime.core import gpu

        gpu.check_build(self.provider, PROVIDERS[self.provider])
        for name in ("resident", "buckets"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.memory != "cpu")

    @property
    def memory(self) -> str:
        """onnxruntime's name of the memory where graphs leave what they compute."""
        return "cpu" if self.provider == "cpu" else "cuda"

    @property
    def resident_from(self) -> int:
        """The fewest utterances for which a resident search pays.

        A step of it is a graph of 200 small operators, whatever the batch; on an H200,
        beam 10, 40 steps, it took 0.26 s for one utterance and 0.47 s for 32, on the
        CPU 0.14 s and 1.27 s. On the CPU it is but tried.
        """
        return 1 if self.memory == "cpu" else 5


def check_fits(bundle: Bundle, device: Device) -> None:
    """Refuse a bundle in a precision, or optimized, for another device.

    Raises:
        PluginError: naming the bundle that is.
    """
    precision = bundle.manifest.precision
    half = ("fp16", "bf16")
    if precision in half and device.provider == "cpu" and not device.emulate:
        raise PluginError(
            f"{bundle.path} is in {precision}, which is for cuda and slower than fp32 "
            "on the CPU; use the int8 or optimized bundle with cpu"
        )
    if precision not in (*half, "fp32") and device.provider != "cpu":
        raise PluginError(
            f"{bundle.path} is quantized for the CPU, onnxruntime's CUDA has no such "
            "operators; use the fp16, fp32 or optimized bundle with cuda"
        )
    if bundle.manifest.optimized_for == "cpu" and device.provider != "cpu":
        raise PluginError(
            f"{bundle.path} is optimized for the CPU, onnxruntime's CUDA lacks some of "
            "its operators; use the fp32 bundle, or what is made of that with "
            "optimize --provider cuda"
        )
