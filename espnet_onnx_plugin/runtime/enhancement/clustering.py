"""Separation by clusters of a spectrum's bins, in float32 as ESPnet's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.enhancement import KMeans, SoftKMeans
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run


class ClusteredSeparation:
    """Runs the graph ``embedding``, clusters, and runs the graph ``separator``.

    Args:
        bundle: where they lie; its method is :class:`KMeans` or :class:`SoftKMeans`.
        device: where they run.
    """

    def __init__(self, bundle: Bundle, device: Device):
        assert bundle.manifest.enhancement is not None
        self._method = bundle.manifest.enhancement.method
        self._embedding = Session(bundle, "embedding", device)
        self._separator = Session(bundle, "separator", device)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Outputs of one mixture, see :class:`~.enhancer.Separation`.

        Raises:
            PluginError: if no clusters are found.
        """
        [embeddings] = run(self._embedding, inputs).values()
        frames, bins, size = embeddings.shape
        masks = self._masks(embeddings.reshape(-1, size))
        masks = np.ascontiguousarray(masks.T).reshape(-1, frames, bins)
        [made] = run(self._separator, {**inputs, "masks": masks}).values()
        return made

    def _masks(self, embeddings: np.ndarray) -> np.ndarray:
        """Masks (bins, clusters) of embeddings (bins, size)."""
        method = self._method
        if isinstance(method, SoftKMeans):
            return soft_k_means(embeddings, method)
        assert isinstance(method, KMeans)
        embeddings = embeddings.copy()
        labels = k_means(embeddings, method.clusters)
        if method.masks == "clusters":
            return np.eye(method.clusters, dtype=np.float32)[labels]
        scores = embeddings @ embeddings[: method.clusters].T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


#: Rounds of k-means, which takes tens; ESPnet would go on for ever.
ROUNDS = 10_000


def k_means(embeddings: np.ndarray, clusters: int) -> np.ndarray:
    """Cluster until every bin stays where it is.

    As ``espnet2.enh.separator.dpcl_separator.DPCLSeparator``: the first embeddings are
    the first centres, and as they are these in memory too, they move with them. Of
    centres equally near the first is taken, and at first all bins are its.

    Args:
        embeddings: (bins, size) float32; the first become the centres.
        clusters: how many.

    Returns:
        The cluster of each bin (bins,).

    Raises:
        PluginError: if that does not end.
    """
    centres = embeddings[:clusters]
    last = np.zeros(len(embeddings), np.int64)
    for _ in range(ROUNDS):
        distances = [((embeddings - centre) ** 2).sum(axis=1) for centre in centres]
        labels = np.argmin(distances, axis=0)
        if np.array_equal(labels, last):
            return labels
        last = labels
        for i in range(clusters):
            members = embeddings[labels == i]
            with np.errstate(invalid="ignore"):  # of no bins ESPnet's mean is nan too
                centres[i] = members.sum(axis=0, dtype=np.float64) / len(members)
    raise PluginError(
        f"the bins of the mixture are in no clusters after {ROUNDS} rounds of k-means; "
        "leave it out"
    )


def soft_k_means(embeddings: np.ndarray, method: SoftKMeans) -> np.ndarray:
    """Weights (bins, clusters) of ``DPCLE2ESeparator``.

    That squares the centres, not the differences to them:
    ``exp(-alpha * sum(embedding - centre**2))``.

    Args:
        embeddings: (bins, size) float32.
        method: its settings.
    """
    alpha = np.float32(method.alpha)
    sums = embeddings.sum(axis=1, keepdims=True)
    centres = embeddings[: method.clusters]
    moves = 0
    while True:
        with np.errstate(over="ignore", invalid="ignore"):
            weights = np.exp(-alpha * (sums - (centres**2).sum(axis=1)))
            weights /= weights.sum(axis=1, keepdims=True) + np.float32(1e-8)
            after = weights.T @ embeddings
            after /= weights.sum(axis=0)[:, None] + np.float32(1e-8)
            moved = ((after - centres) ** 2).sum()
        if moved < method.threshold or moves > method.max_iteration:
            return weights
        moves += 1
        centres = after
