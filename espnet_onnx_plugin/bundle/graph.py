"""Graphs and files, as a bundle describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: An axis of a tensor: its size, or the name of a size that varies.
Axis = int | str


@dataclass(frozen=True)
class Tensor:
    """A named input or output of a graph: dtype as numpy names it, and axes."""

    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class State:
    """A recurrent state of a step graph.

    The graph has an input ``name`` and an output ``next_<name>``. The state starts as
    zeros in which an axis named ``rows`` has size 1, an axis named ``nodes`` size 0,
    and any other named one the size that it has in the graph's memory.
    """

    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class File:
    """A file of a bundle: its name below the bundle, bytes, and digest."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a bundle.

    Attributes:
        file: the graph.
        weights: its tensors, in a file that is mapped into memory; None where the graph
            has no large ones.
        inputs, outputs: the tensors that are not states, by name.
        states: the recurrent states, by name.
        batches: whether an utterance gets the same result in a batch as alone.
    """

    file: File
    weights: File | None
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    states: Mapping[str, State] = field(default_factory=dict)
    batches: bool = True

    @property
    def grows(self) -> bool:
        """Whether its states grow with every token that was read."""
        return any("nodes" in state.axes for state in self.states.values())
