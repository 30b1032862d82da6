"""Graphs of two bundles, run side by side while one of the bundles is used."""

from __future__ import annotations

from collections.abc import Mapping

from espnet_onnx_plugin.bundle import Bundle, Graph
from espnet_onnx_plugin.evaluate.graphs import Differences, roles_by_file
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session


class GraphPairs:
    """Each graph of two bundles, run on the same inputs as one of them is fed.

    Args:
        reference, other: the bundles, with the same graphs.
        device: where they run.

    Attributes:
        differences: the largest of each graph.
        calls: how often each graph was run since the dictionary was emptied.
    """

    def __init__(self, reference: Bundle, other: Bundle, device: Device):
        self._roles = roles_by_file(reference)
        self._sessions = {
            role: [Session(bundle, role, device) for bundle in (reference, other)]
            for role in reference.manifest.graphs
        }
        self.differences = Differences()
        self.calls: dict[str, int] = {}

    def watch(self, graph: Graph, feeds: Mapping[str, Value]) -> None:
        """Compare what both make of the inputs that a graph is about to be fed."""
        role = self._roles[graph.file.name]
        call = self.calls[role] = self.calls.get(role, 0) + 1
        if call & (call - 1):
            return  # steps 1, 2, 4, 8, ... stand for all
        expected, made = (s.run(feeds, graph.outputs) for s in self._sessions[role])
        for name in graph.outputs:
            self.differences.add(role, made[name], expected[name])
