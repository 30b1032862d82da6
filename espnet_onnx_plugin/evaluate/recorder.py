"""What graphs are fed, kept for the comparison of graphs and for ranges."""

from typing import Dict, List, Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Graph
from espnet_onnx_plugin.runtime.core.session import Value

#: Inputs of one run of a graph, by name.
Feeds = Mapping[str, np.ndarray]

#: Utterances whose inputs of every graph are kept, for the comparison of graphs.
RECORDED = 4

#: Utterances whose first inputs are kept, for the ranges of convolutions.
CALIBRATED = 20

#: Utterances on which the speed is measured.
TIMED = 5


class Recorder:
    """Inputs of a bundle's graphs, kept for some utterances and steps.

    Args:
        model: the bundle.

    Attributes:
        by_role: the inputs, by the graph's role.
    """

    def __init__(self, model: Bundle) -> None:
        self.by_role: Dict[str, List[Feeds]] = {}
        # A search may call a graph by another role than the manifest does.
        graphs = model.manifest.graphs
        self._roles = {graph.file.name: role for role, graph in graphs.items()}
        self._utterance = 0
        self._calls: Dict[str, int] = {}

    def next_utterance(self) -> None:
        """What follows belongs to another utterance."""
        self._utterance += 1
        self._calls = {}

    def keep(self, graph: Graph, feeds: Mapping[str, Value]) -> None:
        """Take what a graph is about to be run with."""
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
