"""How far a graph may be from PyTorch.

A figure is max |ONNX - PyTorch| relative to the output's scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from espnet_onnx_plugin.errors import PluginError

TOLERANCE = 1e-4


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
