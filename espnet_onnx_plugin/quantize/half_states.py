"""Keys and values of a search in 16 bits, from step to step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from espnet_onnx_plugin.bundle import Graph, State, Tensor
from espnet_onnx_plugin.quantize.half import Format

Entry = TypeVar("Entry", Tensor, State)


def with_half_states(graphs: Mapping[str, Graph], form: Format) -> dict[str, Graph]:
    """Entries of a bundle's graphs whose keys and values are in 16 bits.

    They are those of the steps of a search: of its tokens, which are states, and of the
    encoder's output, which another graph gives. So neither is cast in every step, and
    both take half of the memory.
    """
    steps = {
        role: graph
        for role, graph in graphs.items()
        if form.states and graph.grows and "log_probs" in graph.outputs
    }
    names = {
        f"{role}_memory": set(graphs[f"{role}_memory"].outputs)
        for role in steps
        if f"{role}_memory" in graphs
    }
    entries = dict(graphs)
    for role, given in names.items():
        outputs = _in_half(graphs[role].outputs, given)
        entries[role] = replace(graphs[role], outputs=outputs)
    for role, graph in steps.items():
        entries[role] = replace(
            graph,
            inputs=_in_half(graph.inputs, names.get(f"{role}_memory", ())),
            states=_in_half(graph.states, graph.states),
        )
    return entries


def _in_half(entries: Mapping[str, Entry], names: Collection[str]) -> dict[str, Entry]:
    return {
        name: (
            replace(entry, dtype="float16")
            if name in names and entry.dtype == "float32"
            else entry
        )
        for name, entry in entries.items()
    }


def half_ends(graph: Graph) -> set[str]:
    """Names of a graph's inputs and outputs that are in 16 bits."""
    tensors = {**graph.inputs, **graph.outputs, **graph.states}
    names = {name for name, entry in tensors.items() if entry.dtype == "float16"}
    return names | {f"next_{name}" for name in names & set(graph.states)}
