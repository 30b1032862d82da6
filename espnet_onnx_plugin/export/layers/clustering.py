"""Graphs of separators that cluster the bins of a mixture by embeddings of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.enhancement import KMeans, SoftKMeans
from espnet_onnx_plugin.export.enh_module import Ends, EnhModule, EnhModules
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.separation import Stack, magnitude

#: Masks (outputs, frames, bins) of the magnitude (frames, bins) of the mixture, and of
#: masks (clusters, frames, bins).
Refine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Embedding(GraphModule):
    """Embeddings (frames, bins, size) of a mixture.

    Args:
        separator: ESPnet's ``dpcl``, ``dan`` or ``dpcl_e2e``.
        ends: what stands around it.
    """

    def __init__(self, separator: torch.nn.Module, ends: Ends):
        super().__init__()
        self.ends = ends
        self.rnn, self.linear = Stack(separator.blstm), separator.linear
        self.nonlinear = separator.nonlinear
        self.bins, self.size = separator.blstm.nbrnn.input_size, separator.D
        self.inputs = ends.inputs(1)
        axes = ("frames_out", self.bins, self.size)
        self.outputs = {"embeddings": Tensor("float32", axes)}
        self.sizes = EnhModule.sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings of the graph's input."""
        features, _ = self.ends.features(x)
        y = self.nonlinear(self.linear(self.rnn(magnitude(features)[0])[0]))
        return y.unflatten(1, (self.bins, self.size))


class Masking(GraphModule):
    """Outputs of a mixture and of masks of its bins.

    Args:
        num_spk: how many outputs there are.
        embedding: the graph that masks come from.
        clusters: how many masks there are.
        refine: makes others of the masks.
    """

    def __init__(
        self,
        num_spk: int,
        embedding: Embedding,
        clusters: int,
        refine: Refine = lambda _, masks: masks,
    ):
        super().__init__()
        self.ends, self.refine = embedding.ends, refine
        masks = Tensor("float32", (clusters, "frames_out", embedding.bins))
        self.inputs = embedding.inputs | {"masks": masks}
        self.outputs = self.ends.outputs(num_spk)
        frames = embedding(*embedding.graph_spec().example()).size(0)
        self.sizes = {**embedding.sizes, "frames_out": frames}

    def forward(self, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """The graph's output of its input and masks (clusters, frames, bins)."""
        features, _ = self.ends.features(x)
        masks = self.refine(magnitude(features)[0], masks)
        return self.ends.estimates([features * mask for mask in masks], x)


def clustered(
    separator: torch.nn.Module,
    ends: Ends,
    method: KMeans | SoftKMeans,
    refine: Refine = lambda _, masks: masks,
) -> EnhModules:
    """The graphs of a separator that clusters.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
        method: how the runtime clusters.
        refine: see :class:`Masking`.
    """
    embedding = Embedding(separator, ends)
    masking = Masking(separator.num_spk, embedding, method.clusters, refine)
    return EnhModules(
        {"embedding": embedding, "separator": masking}, ends, method=method
    )
