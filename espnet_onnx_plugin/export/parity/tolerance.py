"""How far a graph may be from PyTorch.

A figure is max |ONNX - PyTorch| relative to the output's scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.errors import PluginError

TOLERANCE = 1e-4

#: Where PyTorch's own rounding moves an output by more than the tolerance, a graph may
#: differ by this much of it: the two round independently.
NOISE_FACTOR = 2.0


def moved_by_a_digit(array: np.ndarray, seed: int = 0) -> np.ndarray:
    """An input whose numbers move up or down by the last digit of a float32."""
    signs = np.random.default_rng(seed).choice([-1, 1], array.shape)
    return (array * (1 + signs * np.finfo(np.float32).eps)).astype(np.float32)


class Parity(NamedTuple):
    """Result of comparing a model with PyTorch.

    Attributes:
        figures: the largest relative difference by component.
        skipped: cases that could not be compared, each with the reason.
    """

    figures: Mapping[str, float]
    skipped: Sequence[str] = ()


def require(
    component: str, what: str, worst: float, tolerance: float = TOLERANCE
) -> float:
    """Pass a difference on.

    Raises:
        PluginError: if it is above the tolerance.
    """
    if not worst <= tolerance:
        raise PluginError(
            f"parity check failed: {component} differs from PyTorch by {worst:.2e} "
            f"(allowed {tolerance:.0e}) on {what}; nothing was written"
        )
    return worst
