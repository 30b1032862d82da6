"""Runs whose values lie in places that stay, so that one launch can repeat them.

On a GPU a step of a search is hundreds of launches of small kernels, and takes as long
as these do. CUDA can record what a run launches and repeat it as one launch, a CUDA
graph: for the same sizes, at the same addresses. So what a graph reads and writes lies
here in places of its own, and a combination of sizes and addresses is recorded when it
comes for the second time.

On the CPU values lie in such places alike, and nothing is recorded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Bundle, State, Tensor
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device
from espnet_onnx_plugin.runtime.core.runner import Runner, Value, run_options, sizes_of
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import DTYPES, copy, to_numpy

#: Combinations that are recorded of one graph: each is a copy of its launches.
MOST = 256

#: Combinations that are known, beside those that are recorded.
KNOWN = 1024

#: By how much a place grows at least: what was recorded with it is lost.
GROWTH = 1.5

#: dtype and shape of an output.
Described: TypeAlias = tuple[type, Sequence[int]]


class _Place:
    """Memory that stays where it is until more is needed."""

    def __init__(self, memory: str):
        self._memory = memory
        self._value: ort.OrtValue | None = None
        self._size = 0
        #: None: there is no memory yet.
        self.address: int | None = None

    def grow(self, size: int) -> bool:
        """Make room for so many bytes; returns whether it has moved."""
        moves = self.address is not None
        if moves and size <= self._size:
            return False
        self._value = None  # what takes its place may need its memory
        self._size = max(size, int(GROWTH * self._size), 1)
        shape = [self._size]
        self._value = ort.OrtValue.ortvalue_from_shape_and_type(
            shape, np.uint8, self._memory
        )
        self.address = self._value.data_ptr()
        return moves


@dataclass
class _Combination:
    """A graph's runs with the same sizes and addresses.

    Attributes:
        binding: of the graph to them.
        outputs: by name; empty before the first run.
        number: of what is recorded; -1: nothing.
    """

    binding: ort.IOBinding
    outputs: dict[str, Value]
    number: int = -1


class Replay:
    """A graph with places for its values.

    What a run gives holds until the next one. A state does so until the next but one:
    what a graph gives as ``next_x`` and is then given as ``x`` goes back and forth
    between two places.

    Args:
        runner: of the graph, opened for replays.
        memory: onnxruntime's name of where values stay.
    """

    def __init__(self, runner: Runner, memory: str):
        self._runner, self._memory = runner, memory
        session = runner.session
        cuda = session.get_provider_options().get(PROVIDERS["cuda"], {})
        #: Whether runs are recorded.
        self.records = cuda.get("enable_cuda_graph") == "1"
        infos = zip(session.get_inputs(), session.get_input_memory_infos())
        #: By name, whether an input is read on the host beside a GPU.
        self._on_host = {
            each.name: memory != "cpu" and info.name == "Cpu" for each, info in infos
        }
        self._places: dict[tuple[str, int], _Place] = {}
        self._arrays: dict[tuple[str, tuple[int, ...]], ort.OrtValue] = {}
        self._combinations: dict[tuple[object, ...], _Combination] = {}
        #: How many were recorded, and of these cannot come again.
        self._recorded = self._lost = 0

    def settle(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Inputs of the next runs, copied to where those of their names always lie."""
        return {
            name: value if self._on_host.get(name, True) else self._settled(name, value)
            for name, value in values.items()
        }

    def _settled(self, name: str, value: Value) -> ort.OrtValue:
        if isinstance(value, np.ndarray):
            # onnxruntime writes arrays to values of the same size alone.
            key = name, value.shape
            if key not in self._arrays:
                self._arrays[key] = ort.OrtValue.ortvalue_from_shape_and_type(
                    [*value.shape], value.dtype.type, self._memory
                )
            self._arrays[key].update_inplace(np.ascontiguousarray(value))
            return self._arrays[key]
        place = self._places.setdefault((name, 0), _Place(self._memory))
        if value.data_ptr() == place.address:
            return value
        dtype = DTYPES[value.data_type()]
        return copy(value, self._room(place, dtype, value.shape()))

    def _room(self, place: _Place, dtype: type, shape: Sequence[int]) -> int:
        """Address of a place in which such a value has room."""
        if place.grow(math.prod(shape) * np.dtype(dtype).itemsize):
            self._combinations.clear()  # some of them lay in the memory that it had
            self._lost = self._recorded
        assert place.address is not None
        return place.address

    def run(
        self, feeds: Mapping[str, Value], outputs: Mapping[str, Described]
    ) -> dict[str, Value]:
        """Run the graph.

        Args:
            feeds: inputs by name.
            outputs: all that the graph gives, by name.

        Returns:
            The outputs by name, on the device.

        Raises:
            MemoryShort, GraphError: as :meth:`.session.Session.run`.
        """
        remedy = ""
        try:
            known = self._combination(feeds, outputs)
            if known.number >= 0:
                remedy = "; without cuda_graphs it may run"
            options = run_options(recorded=known.number if self.records else None)
            self._runner.session.run_with_iobinding(known.binding, options)
            if not known.outputs:
                made = known.binding.get_outputs()
                known.outputs.update(zip(self._runner.outputs, made))
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise self._runner.failure(e, feeds, remedy) from e
        return dict(known.outputs)

    def _combination(
        self, feeds: Mapping[str, Value], outputs: Mapping[str, Described]
    ) -> _Combination:
        """Put inputs where they always lie, and find what was run on such before."""
        read = {k: v for k, v in feeds.items() if k in self._on_host}
        arrays = {k: v for k, v in read.items() if isinstance(v, np.ndarray)}
        read.update(self.settle(arrays))
        inputs = {k: v for k, v in read.items() if not isinstance(v, np.ndarray)}
        taken = {value.data_ptr() for value in inputs.values()}
        given = {
            name: self._room(self._free(name, taken), *outputs[name])
            for name in self._runner.outputs
        }
        key = (
            *((name, *v.shape(), v.data_ptr()) for name, v in inputs.items()),
            # What is read on the host is not read again where a run is repeated.
            *(v.tobytes() for v in read.values() if isinstance(v, np.ndarray)),
            *given.values(),
        )
        known = self._combinations.get(key)
        if known is None:
            known = _Combination(self._bind(read, outputs, given), {})
            self._remember(key, known)
        elif self.records and known.number < 0 and self._live < MOST:
            known.number = self._recorded
            self._recorded += 1
        return known

    @property
    def _live(self) -> int:
        """How many are recorded and can come again."""
        return self._recorded - self._lost

    def _remember(self, key: tuple[object, ...], new: _Combination) -> None:
        """Know a combination from now on."""
        known = self._combinations
        if len(known) - self._live >= KNOWN:
            self._combinations = {k: c for k, c in known.items() if c.number >= 0}
        self._combinations[key] = new

    def _free(self, name: str, taken: set[int]) -> _Place:
        """The place of an output, of which no input lies there."""
        for number in itertools.count():
            place = self._places.setdefault((name, number), _Place(self._memory))
            if place.address not in taken:
                return place
        raise AssertionError

    def _bind(
        self,
        read: Mapping[str, Value],
        outputs: Mapping[str, Described],
        given: Mapping[str, int],
    ) -> ort.IOBinding:
        """The graph bound to values, by their addresses, and to places."""
        binding, memory = self._runner.session.io_binding(), self._memory
        for name, value in read.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                dtype, address = DTYPES[value.data_type()], value.data_ptr()
                binding.bind_input(name, memory, 0, dtype, value.shape(), address)
        for name, address in given.items():
            dtype, shape = outputs[name]
            binding.bind_output(name, memory, 0, dtype, [*shape], address)
        return binding


class ReplayedSession(Session):
    """A step graph whose runs are repeated.

    Each step is given the states of the one before, of one search at a time.
    """

    replays = True

    def __init__(self, bundle: Bundle, role: str, device: Device):
        super().__init__(bundle, role, device)
        self._replay = Replay(self._runner, device.memory)

    def settle(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Inputs as the runs to come, of which more than one reads them, take them."""
        return self._replay.settle(values)

    def _run(
        self, feeds: Mapping[str, Value], fetch: Collection[str], give_back: bool
    ) -> dict[str, Value]:
        made = self._replay.run(feeds, self._described(feeds))
        return {k: to_numpy(v) if k in fetch else v for k, v in made.items()}

    def _described(self, feeds: Mapping[str, Value]) -> dict[str, Described]:
        """dtypes and shapes of what a run gives."""
        graph = self.graph
        sizes = sizes_of(graph.inputs, feeds)
        sizes["rows"] = sizes["utterances"] * sizes["hypotheses"]
        if "seen" in sizes:
            sizes["nodes"] = sizes["seen"]
        given: dict[str, Tensor | State] = {**graph.outputs}
        given.update((f"next_{name}", state) for name, state in graph.states.items())
        return {
            name: (np.dtype(each.dtype).type, [int(sizes.get(a, a)) for a in each.axes])
            for name, each in given.items()
        }
