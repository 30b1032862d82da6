"""Runs of an opened graph, on values wherever they lie."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Axis, Tensor
from espnet_onnx_plugin.runtime.core import gpu
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError, MemoryShort

gpu.check_module()

Value: TypeAlias = np.ndarray | ort.OrtValue

#: Colours of a terminal, of which onnxruntime's messages are full.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def reason(error: Exception) -> str:
    """An exception of onnxruntime as one line."""
    text = " ".join(_COLOUR.sub("", str(error)).split())
    text = text[max(0, text.find("CUDA failure")) :]  # behind C++ of 500 characters
    return text[:400] or type(error).__name__


@functools.lru_cache(maxsize=None)
def run_options(give_back: bool = False, recorded: int | None = None) -> ort.RunOptions:
    """Options of a run: what fails is told by the exception, not logged besides.

    Args:
        give_back: whether the system gets the arena's free memory afterwards.
        recorded: number by which CUDA records the run, or repeats what it recorded; -1:
            neither; None: of a graph that was not opened for that.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4
    if give_back:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    if recorded is not None:
        options.add_run_config_entry("gpu_graph_id", str(recorded))
    return options


def shape_of(value: Value) -> Sequence[int]:
    """A value's shape, wherever it lies."""
    return value.shape if isinstance(value, np.ndarray) else value.shape()


def sizes_of(
    tensors: Mapping[str, Tensor], values: Mapping[str, Value]
) -> dict[Axis, int]:
    """Sizes by axis, as the values of some of the tensors have them."""
    return {
        axis: size
        for name, tensor in tensors.items()
        if name in values
        for axis, size in zip(tensor.axes, shape_of(values[name]))
    }


class Runner:
    """Runs a graph on values wherever they lie.

    Attributes:
        session: the graph, opened.
        name: of the graph, for messages.
        outputs: names of what it gives, in order.

    Args:
        session, name: see above.
        memory: onnxruntime's name of where outputs stay.
        inputs: descriptions of its inputs, for them too.
        arena: whether it keeps freed memory on the CPU.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        memory: str,
        name: str,
        inputs: Mapping[str, Tensor] = MappingProxyType({}),
        arena: bool = False,
    ):
        self.session = session
        self._memory = memory
        self.name = name
        self._described = inputs
        self._arena = arena
        self._give_back = False
        self._inputs = frozenset(i.name for i in session.get_inputs())
        self.outputs = [output.name for output in session.get_outputs()]

    def binding(
        self, feeds: Mapping[str, Value] = MappingProxyType({})
    ) -> ort.IOBinding:
        """A binding for runs that share these inputs."""
        binding = self.session.io_binding()
        self._bind(binding, feeds)
        return binding

    def _bind(self, binding: ort.IOBinding, feeds: Mapping[str, Value]) -> None:
        for name, value in feeds.items():
            if name not in self._inputs:
                continue  # an input that the graph turned out not to depend on
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)

    def run(
        self,
        binding: ort.IOBinding,
        feeds: Mapping[str, Value],
        fetch: Collection[str],
        give_back: bool = False,
    ) -> dict[str, Value]:
        """Run the graph, as :meth:`Session.run`, on these inputs and those kept.

        Args:
            binding: inputs that were kept.
            feeds: the others.
            fetch: outputs that come back as arrays.
            give_back: whether others get the memory that it takes when it has ended.
        """
        try:
            self._bind(binding, feeds)
            for name in self.outputs:
                binding.bind_output(name, "cpu" if name in fetch else self._memory)
            # What a failed run had taken, maybe all there is, others may need.
            give_back, self._give_back = give_back or self._give_back, True
            self.session.run_with_iobinding(
                binding, run_options(give_back and self._arena)
            )
            self._give_back = False
            return {
                name: value.numpy() if name in fetch else value
                for name, value in zip(self.outputs, binding.get_outputs())
            }
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise self.failure(e, feeds) from e

    def failure(
        self, error: Exception, feeds: Mapping[str, Value], remedy: str = ""
    ) -> MemoryShort | GraphError:
        """The exception that tells of a run that failed.

        Args:
            error: as onnxruntime raised it.
            feeds: inputs of the run.
            remedy: what is added where memory is not short.
        """
        if self._memory != "cpu":
            sizes = self._sizes(feeds)
            batch = ", ".join(f"{n} {axis}" for axis, n in sizes.items())
            what = f"a batch of {batch}" if batch else "a batch"
            short = gpu.memory_short(error, f"{what} in {self.name}")
            if short and (not sizes or sizes.get("utterances", 1) > 1):
                short += "; use a smaller --batch_size or --batch_bins"
            if short:
                return MemoryShort(short)
        return GraphError(f"{self.name} failed: {reason(error)}{remedy}")

    def _sizes(self, feeds: Mapping[str, Value]) -> dict[str, int]:
        """Sizes of what the graph was given, by axis: utterances, frames, ..."""
        sizes = sizes_of(self._described, feeds).items()
        return {axis.split("_")[0]: n for axis, n in sizes if isinstance(axis, str)}
