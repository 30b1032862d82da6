"""The GPU as its driver tells of it, through NVIDIA's management library."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from espnet_onnx_plugin.errors import PluginError

#: Seconds between two readings of the memory in use.
PERIOD = 0.05

MIB = 2**20


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Gpu:
    """The first GPU that this process may use.

    Raises:
        PluginError: If there is none.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as e:
            raise PluginError(f"no driver of NVIDIA is installed here: {e}")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        found = ctypes.byref(self._device)
        if visible.startswith("GPU-"):
            self._call("nvmlDeviceGetHandleByUUID", visible.encode(), found)
        else:
            self._call("nvmlDeviceGetHandleByIndex_v2", int(visible or 0), found)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise PluginError(f"NVIDIA's management library: {name} gave error {code}")

    def _text(self, name: str, *arguments: object) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._call(name, *arguments, buffer, len(buffer))
        return buffer.value.decode()

    @property
    def driver(self) -> str:
        """Return the driver's version."""
        return self._text("nvmlSystemGetDriverVersion")

    def _memory(self) -> _Memory:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(memory))
        return memory

    @property
    def total_mb(self) -> float:
        """Return the card's memory in MiB."""
        return self._memory().total / MIB

    @property
    def used_mb(self) -> float:
        """Return the memory in use by every process, in MiB."""
        return self._memory().used / MIB


@dataclass
class Peak:
    """Memory of the GPU that was taken while something ran.

    Attributes:
        mb: MiB more than before, None where nothing tells of them.
    """

    mb: float | None = None


@contextlib.contextmanager
def watch_memory(provider: str) -> Iterator[Peak]:
    """Watch how much of the GPU's memory is taken, by whatever runs on it meanwhile.

    CUDA's own context counts, which torch's figures leave out.
    """
    peak, ended = Peak(), threading.Event()
    try:
        gpu = None if provider == "cpu" else Gpu()
    except PluginError:
        gpu = None
    if gpu is None:
        yield peak
        return
    before, peak.mb = gpu.used_mb, 0.0

    def watch() -> None:
        while not ended.wait(PERIOD):
            peak.mb = max(peak.mb or 0.0, gpu.used_mb - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
