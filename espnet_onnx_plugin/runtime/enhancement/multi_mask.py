"""Separation into a number of speakers that is known when the mixture is there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run

#: Input of the separation: how many speakers, ().
NUM_SPK = "num_spk"

#: Features of a mixture that masks are for, where they are not its spectrum.
MIXTURE_FEATURES = "feature_mix"


def masks_role(number: int) -> str:
    """Role of the graph that makes the outputs of so many speakers."""
    return f"masks_{number}"


class MultiMaskSeparation:
    """Runs the graphs ``separator`` and ``masks_N``.

    Args:
        bundle: where they lie.
        device: where they run.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._separator = Session(bundle, "separator", device)
        numbers = range(1, len(bundle.manifest.graphs) + 1)
        self._masks = {
            number: Session(bundle, masks_role(number), device)
            for number in numbers
            if masks_role(number) in bundle.manifest.graphs
        }

    def encode(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The bottleneck feature and what else the masks read, by name."""
        return run(self._separator, inputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Outputs of one mixture, see :class:`~.enhancer.Separation`.

        Args:
            inputs: with :data:`NUM_SPK`; what :meth:`encode` gives is used where it is
                among them.
        """
        masks = self._masks[int(inputs[NUM_SPK])]
        if not set(self._separator.graph.outputs) <= set(inputs):
            inputs = {**inputs, **self.encode(inputs)}
        [made] = run(masks, inputs).values()
        return made
