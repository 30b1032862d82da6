"""Separation by one graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run


class DirectSeparation:
    """Runs the graph ``separator``.

    Args:
        bundle: where it lies.
        device: where it runs.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._separator = Session(bundle, "separator", device)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Outputs of one mixture, see :class:`~.enhancer.Separation`."""
        [made] = run(self._separator, inputs).values()
        return made
