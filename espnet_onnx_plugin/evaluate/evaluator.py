"""The interface of evaluation: one evaluator for each kind of task.

A task's row names its evaluator, by which optimization and quantization measure how far
a bundle is from another.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.evaluate.budgets import Budget
from espnet_onnx_plugin.evaluate.data_options import DataOptions
from espnet_onnx_plugin.evaluate.graphs import Comparison
from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.evaluate.speed import Seconds
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.tasks import Task, open_model, task_of

BudgetOf = TypeVar("BudgetOf", bound=Budget)


@dataclass(frozen=True)
class Quality(ABC, Generic[BudgetOf]):
    """Results of a bundle next to fp32's, in figures; as a string, for a log.

    Attributes:
        utterances: how many were compared.
        identical: of these, how many got the same result.
    """

    utterances: int
    identical: int

    @property
    def measured(self) -> bool:
        """Whether there is a figure that a budget limits."""
        return True

    @abstractmethod
    def within(self, budget: BudgetOf) -> bool:
        """Whether a budget holds."""

    def as_dict(self) -> dict[str, float]:
        """For the manifest."""
        figures = {k: v for k, v in vars(self).items() if v is not None}
        return {k: round(v, 5) for k, v in figures.items()}


@dataclass(frozen=True)
class Baseline(ABC, Generic[BudgetOf]):
    """Results of the fp32 bundle, which those of others are held against.

    Attributes:
        model: the bundle.
        device, options: how it was run.
        feeds: recorded inputs of each graph, by role.
    """

    model: Bundle
    device: Device
    options: Mapping[str, Any]
    feeds: Mapping[str, Sequence[Feeds]]

    @abstractmethod
    def measure(self, bundle: Bundle) -> Quality[BudgetOf]:
        """Run another bundle on the same data, and compare its results."""

    @abstractmethod
    def time(self, bundle: Bundle) -> Seconds:
        """Seconds of the fp32 bundle (``fp32``) and another (``quantized``)."""

    def open_both(self, bundle: Bundle) -> dict[str, Any]:
        """Models of the fp32 bundle and another, to be timed."""
        return {"fp32": self.open(self.model), "quantized": self.open(bundle)}

    def open(self, bundle: Bundle) -> Any:
        """A model of a bundle, with the same options."""
        return open_on(self.device, bundle, **self.options)


@dataclass(frozen=True)
class Evaluator(ABC, Generic[BudgetOf]):
    """Data of a kind of task, and how bundles are compared on it.

    Attributes:
        source: the data; made-up data stand in where it is None.
        options: ESPnet's decoding options; those of a check where None.
        data_class: options of the commands that give the data.
        budget_class: limits of what quantization may cost.
        option: the one of them without which there are none.
        made_up: kind of the made-up data, for the manifest.
        only_faster: whether quantization leaves a graph in fp32 that is no faster.
    """

    source: object = None
    options: Mapping[str, Any] | None = None

    data_class: ClassVar[type[DataOptions]]
    budget_class: ClassVar[type[Any]]
    option: ClassVar[str]
    made_up: ClassVar[str]
    only_faster: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_options(
        cls, task: Task, data: Any, options: Mapping[str, Any] | None = None
    ) -> Evaluator[BudgetOf]:
        """Make the evaluator of a command's options.

        Args:
            task: the row of the bundles that are compared.
            data: of :attr:`data_class`.
            options: ESPnet's decoding options.

        Raises:
            PluginError: if the task does not read an option, or one needs another.
        """

    @property
    def real(self) -> bool:
        """Whether the data are given."""
        return self.source is not None

    @property
    def kind(self) -> str:
        """Kind of the data, as a manifest calls it."""
        return "real" if self.real else self.made_up

    @abstractmethod
    def as_dict(self) -> Mapping[str, Any] | None:
        """For the manifest: what decides the figures; None of made-up data."""

    @abstractmethod
    def compare(self, reference: Bundle, other: Bundle, device: Device) -> Comparison:
        """Run two bundles with the same graphs on the data.

        Args:
            reference: the bundle that counts as right.
            other: the bundle that was made of that one.
            device: where both run.
        """

    @abstractmethod
    def run(self, model: Bundle, device: Device) -> Baseline[BudgetOf]:
        """Run the fp32 bundle on the data, on a device that emulates others.

        It can take minutes.
        """


def evaluator_class(task: Task) -> type[Evaluator[Any]]:
    """The evaluator that a task's row names."""
    module, name = task.evaluator.split(".")
    found = importlib.import_module(f"espnet_onnx_plugin.evaluate.{module}")
    return getattr(found, name)


def evaluator_of(bundle: Bundle) -> type[Evaluator[Any]]:
    """The evaluator of a bundle's task."""
    return evaluator_class(task_of(bundle))


def open_on(device: Device, bundle: Bundle, **options: Any) -> Any:
    """A model of a bundle on a device, with ESPnet's decoding options."""
    session = dict(vars(device))
    provider, threads = session.pop("provider"), session.pop("threads")
    return open_model(
        bundle, provider=provider, threads=threads, session=session, **options
    )
