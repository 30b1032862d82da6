"""Needs of a GPU besides a graph: its onnxruntime, NVIDIA's libraries and driver.

Where one of them is missing, onnxruntime itself logs that and goes on with the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort

from espnet_onnx_plugin.errors import PluginError

#: Of CUDA's error codes: there is no GPU.
_NO_DEVICE = 100

#: The package for GPUs, with NVIDIA's libraries.
_PACKAGE = "onnxruntime-gpu[cuda,cudnn]"

#: What onnxruntime looks for only when a convolution runs.
_CUDNN = "libcudnn.so.9"

#: How onnxruntime and NVIDIA's libraries say that memory is short, and by how much.
_NO_MEMORY = re.compile(
    r"requested buffer of size (\d+)|out of memory|_ALLOC_FAILED", re.IGNORECASE
)

_GIB = 2**30


class Memory(NamedTuple):
    """Memory of a GPU, in bytes."""

    free: int
    total: int


def check_module() -> None:
    """Refuse what pip leaves of onnxruntime when it removes one of its two packages.

    Packages onnxruntime and onnxruntime-gpu have one module, and files of the same
    names: the one that is installed last writes over the other, and one that is removed
    takes the other's files with it.

    Raises:
        PluginError: with the command that mends the installation.
    """
    if not hasattr(ort, "InferenceSession"):
        for package in ("onnxruntime-gpu", "onnxruntime"):
            if version := _version(package):
                raise PluginError(
                    f"package {package} {version} has lost files to another one of the "
                    f"same module, which was removed: {_reinstall(package, version)}"
                )


def check_build(provider: str, name: str) -> None:
    """Refuse an onnxruntime that is not built for a provider.

    Args:
        provider: the provider.
        name: onnxruntime's name of it.

    Raises:
        PluginError: with the command that mends the installation.
    """
    check_module()
    if name in ort.get_available_providers():
        return
    version = _version("onnxruntime-gpu")
    if version is None:
        raise PluginError(
            f"provider '{provider}' is not in this onnxruntime ({ort.__version__}); "
            f"pip install '{_PACKAGE}', or use provider cpu"
        )
    raise PluginError(
        f"provider '{provider}' is not in this onnxruntime ({ort.__version__}): it was "
        f"installed over onnxruntime-gpu {version}, whose module has the same name; "
        f"{_reinstall('onnxruntime-gpu', version)}, or use provider cpu"
    )


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _reinstall(package: str, version: str) -> str:
    return f"pip install --force-reinstall --no-deps {package}=={version}"


@functools.lru_cache(maxsize=None)
def start(provider: str, tf32: bool = False) -> None:
    """Find a GPU and load NVIDIA's libraries, as the first graph needs them.

    Args:
        provider: ``cuda`` or ``tensorrt``.
        tf32: whether TensorRT may multiply in TF32, of which onnxruntime has no option;
            NVIDIA's libraries read a variable, once in a process.

    Raises:
        PluginError: naming what is missing, and the remedy.
    """
    driver = _find_gpu()
    if provider == "tensorrt" and not tf32:
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    built = str(getattr(ort, "cuda_version", "")) or "another CUDA"
    if built[0].isdigit() and driver // 1000 < int(built.split(".")[0]):
        raise PluginError(
            f"the driver of this GPU is for CUDA {driver // 1000}, and onnxruntime "
            f"{ort.__version__} is built for CUDA {built}: update the driver, or "
            f"install an onnxruntime-gpu that is built for CUDA {driver // 1000}"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # what is missing is told below
        ort.preload_dlls()
        for folder in _nvidia():  # which may lie elsewhere than onnxruntime
            ort.preload_dlls(directory=str(folder))
    needed = [_CUDNN, *map(_library, ("shared", "cuda"))]
    if provider == "tensorrt":
        _load_tensorrt()
        needed.append(_library("tensorrt"))
    for library in needed:
        try:
            _load(library)
        except OSError as e:
            raise PluginError(
                f"onnxruntime {ort.__version__}, built for CUDA {built}, cannot start "
                f"{provider} ({e}): {_remedy(str(e))}, or use provider cpu"
            )


def _nvidia() -> list[Path]:
    """Folders of the libraries in NVIDIA's packages, wherever those are installed."""
    found = importlib.util.find_spec("nvidia")
    roots = (found and found.submodule_search_locations) or ()
    return [folder for root in roots for folder in Path(root).glob("*/lib")]


def _library(name: str) -> str:
    """One of onnxruntime's own libraries."""
    folder = Path(ort.__file__).parent / "capi"
    return str(folder / f"libonnxruntime_providers_{name}.so")


def _remedy(error: str) -> str:
    """The remedy for a library that an error of the linker names."""
    tensorrt = re.search(r"libnv(?:infer|onnxparser)\S*\.so\.(\d+)", error)
    if tensorrt is None:
        return f"pip install '{_PACKAGE}=={ort.__version__}'"
    cuda = str(getattr(ort, "cuda_version", "")).split(".")[0]
    return f"pip install 'tensorrt-cu{cuda}=={tensorrt[1]}.*'"


def _load(library: str) -> ctypes.CDLL:
    return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def _load_tensorrt() -> None:
    """Load the libraries of NVIDIA's package, which onnxruntime does not look for."""
    found = importlib.util.find_spec("tensorrt_libs")
    for folder in (found and found.submodule_search_locations) or ():
        for name in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
            for library in Path(folder).glob(f"{name}.so.*"):
                with contextlib.suppress(OSError):  # what is missing is told later
                    _load(str(library))


def _find_gpu() -> int:
    """The CUDA version that the driver takes, as NVIDIA counts it: 13000 for CUDA 13.0.

    Raises:
        PluginError: if there is no driver, or no GPU for this process.
    """
    try:
        driver = _load("libcuda.so.1")
    except OSError as e:
        raise PluginError(
            f"this machine has no driver of NVIDIA's ({e}): run where there is a GPU, "
            "or use provider cpu"
        )
    count, version = ctypes.c_int(), ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error == _NO_DEVICE or not (error or count.value):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if visible is None else f": CUDA_VISIBLE_DEVICES is '{visible}'"
        raise PluginError(
            f"there is no GPU for this process{why}; ask for one, in a recipe by "
            "cuda_cmd in cmd.sh, or use provider cpu"
        )
    if error:
        raise PluginError(
            f"the driver of this GPU does not start (CUDA error {error}): see what "
            "nvidia-smi says, or use provider cpu"
        )
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def memory() -> Memory | None:
    """Memory of the GPU that graphs run on, where the driver tells it."""
    try:
        driver = _load("libcuda.so.1")
    except OSError:
        return None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    # The context is the one that onnxruntime works in.
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0):
        return None
    driver.cuCtxPushCurrent_v2(context)
    error = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    driver.cuDevicePrimaryCtxRelease_v2(0)
    return None if error else Memory(free.value, total.value)


def memory_short(error: Exception, what: str) -> str | None:
    """A line for an error that says that the GPU's memory is short; else None.

    Args:
        error: of onnxruntime.
        what: was to be held.
    """
    found = _NO_MEMORY.search(str(error))
    if found is None:
        return None
    line, left = f"the GPU's memory does not hold {what}", memory()
    if found[1]:
        line += f", which needs {int(found[1]) / _GIB:.2f} GiB more"
    if left is not None:
        line += f"; {left.free / _GIB:.2f} of {left.total / _GIB:.1f} GiB are free"
    return line
