"""Recorded inputs of graphs, for the comparison of graphs and for ranges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Graph
from espnet_onnx_plugin.evaluate.graphs import roles_by_file
from espnet_onnx_plugin.runtime.core.runner import Value

#: Inputs of one run of a graph, by name.
Feeds = Mapping[str, np.ndarray]

#: Utterances whose inputs of every graph are kept, for the comparison of graphs.
RECORDED = 4

#: Utterances whose first inputs are kept, for the ranges of convolutions.
CALIBRATED = 20


class InputRecorder:
    """Inputs of a bundle's graphs, recorded for some utterances and steps.

    Args:
        model: the bundle.

    Attributes:
        by_role: the inputs, by the graph's role.
    """

    def __init__(self, model: Bundle) -> None:
        self.by_role: dict[str, list[Feeds]] = {}
        self._roles = roles_by_file(model)
        self._utterance = 0
        self._calls: dict[str, int] = {}

    def next_utterance(self) -> None:
        """Begin the next utterance."""
        self._utterance += 1
        self._calls = {}

    def record(self, graph: Graph, feeds: Mapping[str, Value]) -> None:
        """Keep the inputs with which a graph is about to be run, if they are wanted."""
        role = self._roles[graph.file.name]
        call = self._calls.get(role, 0)
        self._calls[role] = call + 1
        # Steps 0, 1, 2, 4, 8, ...: the early ones, and some of the long histories.
        wanted = call & (call - 1) == 0 if self._utterance < RECORDED else call == 0
        if wanted and self._utterance < CALIBRATED:
            self.by_role.setdefault(role, []).append(
                {
                    name: np.array(v if isinstance(v, np.ndarray) else v.numpy())
                    for name, v in feeds.items()
                }
            )
