"""A graph of a bundle, ready to run."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Bundle, Graph, Precision
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core import gpu
from espnet_onnx_plugin.runtime.core.arithmetic import keep_exact
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.estimate import Estimate
from espnet_onnx_plugin.runtime.core.graph_errors import MemoryNeeded
from espnet_onnx_plugin.runtime.core.proc import room
from espnet_onnx_plugin.runtime.core.providers import (
    REFUSED,
    Options,
    providers,
    recording,
)
from espnet_onnx_plugin.runtime.core.runner import Runner, Value, reason, sizes_of


@functools.lru_cache(maxsize=None)
def _share_arena() -> None:
    """Give the sessions of this process one pool of memory.

    It grows by what is asked for; onnxruntime's own grows to the next power of two.
    """
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = ort.OrtArenaCfg(
        {
            "max_mem": 0,
            "arena_extend_strategy": 1,
            "initial_chunk_size_bytes": -1,
            "max_dead_bytes_per_chunk": -1,
        }
    )
    try:
        ort.create_and_register_allocator(memory, same_as_requested)
    except Exception:  # the program around us has registered one: then that is shared
        pass


def session_options(device: Device) -> ort.SessionOptions:
    """The options that every session of this package is made with."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings here are for its developers
    options.enable_mem_pattern = device.memory_pattern
    options.enable_cpu_mem_arena = device.arena
    spinning = str(int(device.spinning))
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if device.arena and device.shared:
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def open_graph(
    path: Path | bytes,
    device: Device,
    precision: Precision = "int8",
    graph: Graph | None = None,
    profile: Path | None = None,
    replays: bool = False,
) -> ort.InferenceSession:
    """A graph on a device, with the same result on every processor.

    Args:
        path: the graph's file, or what would stand in one.
        device: where it runs.
        precision: that of the bundle; one of unknown precision may hold 8-bit products.
        graph: its description, where it is one of a bundle.
        profile: prefix of the file with the profile of its runs, where there is one.
        replays: whether :class:`~.replay.Replay` will run it.

    Raises:
        PluginError: where it would run elsewhere.
    """
    options = session_options(device)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if precision == "int8":
        keep_exact(options)
    if device.provider != "cpu":
        gpu.start(device.provider, device.tf32)
    chosen = providers(device, graph, precision)
    if replays:
        chosen = [(name, recording(name, given)) for name, given in chosen]
        options.log_severity_level = 4  # what cannot be recorded is no error
    try:
        session = _open(path, options, chosen)
    except Exception as e:  # onnxruntime's exceptions have no common base
        less = next(
            (reduced for told, reduced in REFUSED.items() if told in str(e)), None
        )
        if less is None:
            raise
        chosen = [(name, less(given)) for name, given in chosen]
        session = _open(path, options, chosen)
    for name, _ in chosen:
        if name not in session.get_providers():
            raise PluginError(
                f"onnxruntime could not start {name} and would run on the CPU; check "
                "the driver and the CUDA and cuDNN libraries, or use provider cpu"
            )
    return session


def _open(
    path: Path | bytes, options: ort.SessionOptions, chosen: list[tuple[str, Options]]
) -> ort.InferenceSession:
    model = path if isinstance(path, bytes) else str(path)
    return ort.InferenceSession(model, options, providers=chosen, enable_fallback=0)


class Session:
    """One graph; inputs, outputs and states are addressed by name.

    Args:
        bundle: where the graph lies.
        role: which of the manifest's graphs.
        device: where it runs.
    """

    #: Whether runs of the same sizes are repeated, so that few sizes pay.
    replays = False

    def __init__(self, bundle: Bundle, role: str, device: Device):
        self.graph = bundle.manifest.graphs[role]
        path = bundle.file(self.graph.file.name)
        try:
            precision = bundle.manifest.precision
            session = open_graph(
                path, device, precision, self.graph, replays=self.replays
            )
        except PluginError:
            raise
        except Exception as e:  # onnxruntime's exceptions have no common base
            remedy = "export the bundle again, with this onnxruntime installed"
            if device.memory != "cpu":
                short = gpu.memory_short(e, str(path))
                if short:
                    raise PluginError(f"{short}: other processes may have the rest")
                remedy = "see what nvidia-smi says, or use provider cpu"
            raise PluginError(
                f"onnxruntime {ort.__version__} cannot load {path} ({reason(e)}); "
                f"{remedy}"
            )
        self._refuse_others(session, path)
        self._device = device
        self._estimate = Estimate(
            self.graph,
            path,
            lambda prefix: open_graph(path, device, precision, self.graph, prefix),
        )
        name, inputs = self.graph.file.name, self.graph.inputs
        arena = device.arena and device.memory == "cpu"
        self._runner = Runner(session, device.memory, name, inputs, arena)

    def _refuse_others(self, session: ort.InferenceSession, path: Path) -> None:
        """Refuse a graph whose tensors are not those of its description."""
        graph = self.graph
        read = {i.name for i in session.get_inputs()} - {*graph.inputs, *graph.states}
        given = {*graph.outputs, *(f"next_{name}" for name in graph.states)}
        given -= {output.name for output in session.get_outputs()}
        if read or given:
            names = ", ".join(sorted(read | given))
            raise PluginError(
                f"{path} has other inputs and outputs than its manifest says "
                f"({names}); get the bundle from its author again, or export it"
            )

    def run(self, feeds: Mapping[str, Value], fetch: Iterable[str]) -> dict[str, Value]:
        """Run the graph.

        Args:
            feeds: inputs by name; arrays, or values that stayed on the device.
            fetch: outputs that come back as arrays.

        Returns:
            Every output by name; those not in ``fetch`` stay on the device.

        Raises:
            MemoryShort: if the GPU's memory does not hold the batch.
            MemoryNeeded: if the CPU's does not.
            GraphError: if onnxruntime fails.
        """
        if self._device.watch is not None:
            self._device.watch(self.graph, feeds)
        needed = self.check(feeds)
        return self._run(feeds, set(fetch), needed > 0)

    def _run(
        self, feeds: Mapping[str, Value], fetch: Collection[str], give_back: bool
    ) -> dict[str, Value]:
        return self._runner.run(self._runner.binding(), feeds, fetch, give_back)

    def settle(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Inputs as the runs to come, of which more than one reads them, take them."""
        return values

    @property
    def checks(self) -> bool:
        """Whether :meth:`check` may refuse anything."""
        return self._estimate.axis is not None and self._device.memory == "cpu"

    def check(self, feeds: Mapping[str, Value], times: float = 1.0) -> int:
        """Refuse a run that needs more memory than this process may take.

        Args:
            feeds: its inputs by name, or their beginnings.
            times: how many times as long the inputs are.

        Returns:
            Bytes that it needs at least, where it is long enough for a look; else 0.

        Raises:
            MemoryNeeded: naming how much.
        """
        axis = self._estimate.axis
        if axis is None or not self.checks:
            return 0
        sizes = sizes_of(self.graph.inputs, feeds)
        needed = self._estimate.bytes(
            {**sizes, axis: int(sizes[axis] * times)},
            lambda: {
                name: value if isinstance(value, np.ndarray) else value.numpy()
                for name, value in feeds.items()
            },
        )
        if needed > room():
            raise MemoryNeeded(self.graph.file.name, needed)
        return needed

    def initial_states(self, memory: Mapping[str, Value]) -> dict[str, np.ndarray]:
        """The states before the first step: one row of zeros, no nodes.

        Args:
            memory: what the graph reads in every step, by name; its sizes are those of
                the states' axes of the same name.
        """
        sizes = {"rows": 1, "nodes": 0, **sizes_of(self.graph.inputs, memory)}
        return {
            name: np.zeros(
                [int(sizes.get(a, a)) for a in state.axes], dtype=state.dtype
            )
            for name, state in self.graph.states.items()
        }

    def step(
        self, feeds: Mapping[str, Value], states: Mapping[str, Value]
    ) -> tuple[dict[str, np.ndarray], dict[str, Value]]:
        """Run a step graph.

        Args:
            feeds: inputs other than the states.
            states: as :meth:`initial_states` or the previous step gave them.

        Returns:
            The outputs by name, and the states for the next step.
        """
        results = self.run({**feeds, **states}, self.graph.outputs)
        outputs = {name: results[name] for name in self.graph.outputs}
        return outputs, {name: results[f"next_{name}"] for name in states}


def run(session: Session, pool: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """Run a graph on what it reads of a pool of arrays, and give its outputs."""
    feeds = {name: pool[name] for name in session.graph.inputs}
    return session.run(feeds, session.graph.outputs)
