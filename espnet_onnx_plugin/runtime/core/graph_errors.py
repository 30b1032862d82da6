"""Errors of graphs on an input, which may run on others."""

from espnet_onnx_plugin.errors import PluginError


class GraphError(PluginError):
    """A graph failed on an input; those of other utterances may be fine."""


class MemoryShort(GraphError):
    """The GPU's memory does not hold what a graph needs."""


class MemoryNeeded(GraphError):
    """A graph was not run, for it needs more memory than this process may take.

    Args:
        name: of the graph.
        needed: bytes.
    """

    def __init__(self, name: str, needed: int):
        super().__init__(f"{name} needs {needed / 2**30:.2f} GiB of memory")
        self.needed = needed
