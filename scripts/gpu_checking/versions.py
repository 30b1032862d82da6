"""Part: the machine and its software, and whether the provider starts at all."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from importlib import metadata
from pathlib import Path

from gpu_checking.gpu import Gpu
from gpu_checking.job import Job

import espnet_onnx_plugin
from espnet_onnx_plugin.errors import PluginError

PACKAGES = ("espnet", "onnx", "onnxscript", "numpy")


def versions(job: Job) -> None:
    """Write the versions down, then run a graph of one node on the provider."""
    job.add(what="Python", value=platform.python_version())
    job.add(what="CPU", value=f"{_cpu()}, {os.cpu_count()} cores")
    job.add(what="espnet_onnx_plugin", value=espnet_onnx_plugin.__version__)
    for package in PACKAGES:
        job.add(what=package, value=metadata.version(package))
    import onnxruntime as ort

    built = ", ".join(ort.get_available_providers())
    job.add(what="onnxruntime", value=f"{ort.__version__}: {built}")
    import torch

    built = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    job.add(what="torch", value=f"{torch.__version__}: {built}")
    if job.provider != "cpu":
        job.add(what="GPU", value=torch.cuda.get_device_name())
        job.add(what="driver, memory", value=_driver())
    job.add(what=f"{job.provider} runs", value=_probe(job.provider))


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        name = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
    return name[1] if name else platform.machine()


def _driver() -> str:
    try:
        gpu = Gpu()
        return f"{gpu.driver}, {gpu.total_mb:.0f} MiB"
    except PluginError as e:  # then there are no figures of memory
        return str(e)


def _probe(provider: str) -> str:
    """Run a graph of one node; return the providers that the session has.

    Raises:
        PluginError: If the provider is not among them.
    """
    import numpy as np
    from onnx import TensorProto, helper, save

    from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device
    from espnet_onnx_plugin.runtime.core.session import open_graph

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "probe", value[:1], value[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "probe.onnx")
        save(model, path)
        session = open_graph(path, Device(provider))
        [doubled] = session.run(None, {"x": np.ones(2, np.float32)})
    found = session.get_providers()
    if PROVIDERS[provider] not in found or doubled.tolist() != [2.0, 2.0]:
        raise PluginError(f"provider {provider} does not start: {', '.join(found)}")
    return ", ".join(found)
