"""Exporters of the tasks: what the export asks of one, and where a task has its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from espnet_onnx_plugin.bundle import Bundle, Manifest, Text
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.tasks import find


class Exporter(Protocol):
    """A trained model of a task, as the export sees it."""

    def write_texts(self, work: Path) -> dict[str, Text]:
        """Write tokens and tokenizers, and describe them by field of the manifest."""

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare every graph with PyTorch, on real audio too if it is given.

        Raises:
            PluginError: if a difference is above the tolerance.
        """

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest with what has to be measured on the graphs."""


def find_exporter(task: str) -> Callable[[Checkpoints], Exporter]:
    """The class that exports the models of a task."""
    module, name = find(task).exporter.split(".")
    tasks = importlib.import_module(f"espnet_onnx_plugin.export.tasks.{module}")
    return getattr(tasks, name)
