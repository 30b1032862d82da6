"""Separation segment by segment, with a memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.enhancement import Segmental
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run


class SegmentalSeparation:
    """Runs the graphs ``encoder``, ``separator`` for each segment, and ``decoder``.

    Args:
        bundle: where they lie.
        device: where they run.
    """

    def __init__(self, bundle: Bundle, device: Device):
        described = bundle.manifest.enhancement
        assert described is not None and isinstance(described.method, Segmental)
        self._frames = described.method.frames
        roles = ("separator_encoder", "separator", "separator_decoder")
        self._encoder, self._separator, self._decoder = (
            Session(bundle, role, device) for role in roles
        )

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Outputs of one mixture, see :class:`~.enhancer.Separation`."""
        encoded = run(self._encoder, inputs)
        features, memory = encoded["features"], encoded["memory"]
        frames = len(features)
        missing = -frames % self._frames
        features = np.pad(features, [(0, missing), (0, 0), (0, 0), (0, 0)])
        separated = []
        for begin in range(0, frames, self._frames):
            segment = features[begin : begin + self._frames]
            made = run(
                self._separator, {**inputs, "features": segment, "memory": memory}
            )
            memory = made["next_memory"]
            separated.append(made["separated"])
        whole = np.concatenate(separated)[:frames]
        [spectra] = run(self._decoder, {"separated": whole}).values()
        return spectra
