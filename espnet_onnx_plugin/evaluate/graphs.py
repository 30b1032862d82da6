"""Differences of arrays, and of the graphs of two bundles on the same inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.bundle import Bundle

#: The largest difference of a waveform, relative to its scale: a vocoder magnifies
#: what the features differ by.
WAVEFORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Figures of a comparison.

    Attributes:
        utterances: how many were compared.
        audio: the kind of input: ``real``, or what stood in where none was given.
        identical: of the utterances, how many got the same result.
        differences: by component, the largest difference of an output relative to its
            scale.
        not_compared: roles of the graphs that nothing used.
    """

    utterances: int
    audio: str
    identical: int
    differences: Mapping[str, float]
    not_compared: Sequence[str] = ()

    def as_dict(self) -> dict[str, object]:
        """For the manifest."""
        differences = {
            name: float(np.format_float_scientific(value, 2))
            for name, value in self.differences.items()
        }
        lists = {"not_compared": list(self.not_compared)} if self.not_compared else {}
        figures = {k: v for k, v in vars(self).items() if k != "not_compared"}
        return {**figures, "differences": differences, **lists}


def difference(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference relative to the reference's largest finite magnitude.

    Infinite where the shapes differ, a value is not a number, or one is infinite and
    the other is not.
    """
    if ours.shape != reference.shape:
        return float("inf")
    finite = np.isfinite(reference)
    if not np.array_equal(ours[~finite], reference[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    ours, reference = ours[finite], reference[finite]
    scale = max(float(np.abs(reference).max()), 1e-20)
    worst = float(np.abs(ours - reference).max()) / scale
    return worst if np.isfinite(worst) else float("inf")


class Differences(dict[str, float]):
    """Largest difference of the outputs of each component, by its name."""

    def add(self, component: str, ours: np.ndarray, reference: np.ndarray) -> None:
        """Compare another output of a component."""
        figure = difference(ours, reference)
        self[component] = max(self.get(component, 0.0), figure)


def roles_by_file(bundle: Bundle) -> dict[str, str]:
    """Role of each graph by its file, for a search may use another role than that."""
    return {graph.file.name: role for role, graph in bundle.manifest.graphs.items()}


def not_among(bundle: Bundle, roles: Collection[str]) -> list[str]:
    """Roles of a bundle's graphs that are not among those given."""
    return [role for role in bundle.manifest.graphs if role not in roles]
