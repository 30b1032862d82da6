"""Quantization within a quality budget: bundle to bundle.

The bundle is written in the precision that was asked for and held against its parent
on the validation set, by the recipe's own search, or by the speech that it makes. Where
it misses the budget, layers are kept in higher precision, those first that cost most,
until it holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic

import onnxruntime as ort

from espnet_onnx_plugin.bundle import Bundle, Graph, Precision, State, Tensor
from espnet_onnx_plugin.bundle.derive import derive
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.evaluator import (
    Baseline,
    BudgetOf,
    Evaluator,
    Quality,
    evaluator_of,
)
from espnet_onnx_plugin.evaluate.graphs import Differences
from espnet_onnx_plugin.evaluate.recorder import Feeds
from espnet_onnx_plugin.optimize.fuse import CPU, optimize_graph
from espnet_onnx_plugin.quantize.emulation import emulated
from espnet_onnx_plugin.quantize.forms import Lowering
from espnet_onnx_plugin.quantize.half import FORMATS
from espnet_onnx_plugin.quantize.half_lowering import calibrate_half
from espnet_onnx_plugin.quantize.half_states import half_ends, with_half_states
from espnet_onnx_plugin.quantize.lowering import (
    LADDERS,
    calibrate_graph,
    keep_faster,
)
from espnet_onnx_plugin.quantize.sensitivity import Raise, rank
from espnet_onnx_plugin.runtime.core.arithmetic import products_saturate
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.providers import takes_tensorrt
from espnet_onnx_plugin.runtime.core.session import Session

logger = logging.getLogger(__name__)

PRECISIONS = (*LADDERS, *FORMATS)

#: After this time a solution that holds is not made smaller any more.
MAX_SECONDS = 3600.0


def quantize(
    model: Bundle,
    output_dir: Path,
    precision: Precision = "int8",
    evaluator: Evaluator[BudgetOf] | None = None,
    budget: BudgetOf | None = None,
    device: Device = CPU,
    force: bool = False,
) -> Bundle:
    """Write a bundle in lower precision, with the figures of its quality.

    Args:
        model: the bundle that was exported.
        output_dir: the new bundle.
        precision: one of :data:`PRECISIONS`.
        evaluator: what to measure on, of the model's task; without data, nothing
            holds the budget, and convolutions stay in fp32.
        budget: what quantization may cost, by default that of the evaluator.
        device: where it is measured.
        force: write it anew where it is up to date too.

    Raises:
        PluginError: if the budget does not hold; nothing is written then.
    """
    if precision not in PRECISIONS:
        raise PluginError(
            f"precision '{precision}' is unknown; use one of {', '.join(PRECISIONS)}"
        )
    if precision in LADDERS and device.provider != "cpu":
        raise PluginError(
            f"{precision} is for the CPU; use provider cpu, or precision "
            f"{' or '.join(FORMATS)}"
        )
    evaluator = evaluator_of(model)() if evaluator is None else evaluator
    budget = evaluator.budget_class() if budget is None else budget
    if not evaluator.real:
        logger.warning(
            "nothing to calibrate on: convolutions stay in fp32 and the budget is not "
            "measured; give %s",
            evaluator.option,
        )
    made_by = dict(
        step="quantize",
        precision=precision,
        reduce_range=products_saturate(),
        budget=asdict(budget),
        calibration=evaluator.as_dict(),
        onnxruntime=ort.__version__,
    )
    if precision in FORMATS:
        made_by["provider"] = device.provider

    @cache
    def quantizer() -> Quantizer[BudgetOf]:
        """Calibrate, once, and not where the output is up to date."""
        return calibrate(model, precision, evaluator, budget, device)

    return derive(
        model,
        output_dir,
        made_by,
        lambda role, old, new: quantizer().rewrite(role, old, new),
        lambda bundle: quantizer().check(bundle),
        precision,
        _entries(model, precision),
        force,
    )


def _entries(model: Bundle, precision: Precision) -> Mapping[str, Graph]:
    """Entries of the new bundle's graphs, whose states may be smaller."""
    graphs = model.manifest.graphs
    if precision not in FORMATS:
        return graphs
    return with_half_states(graphs, FORMATS[precision])


def calibrate(
    model: Bundle,
    precision: Precision,
    evaluator: Evaluator[BudgetOf],
    budget: BudgetOf,
    device: Device,
) -> Quantizer[BudgetOf]:
    """Run the fp32 bundle on the data, and calibrate its graphs.

    The arguments are those of :func:`quantize`.
    """
    # With 7 bits of weights products are fast here, and none saturates.
    reduce_range = products_saturate()
    baseline = evaluator.run(model, device)
    lowerings: dict[str, Lowering] = {}
    for role, graph in _entries(model, precision).items():
        source = model.file(graph.file.name)
        feeds = baseline.feeds.get(role, ()) if evaluator.real else ()
        if precision in FORMATS:
            ends = half_ends(graph)
            # TensorRT, which may take an encoder, has none of onnxruntime's operators.
            fused = not takes_tensorrt(graph)
            lowerings[role] = calibrate_half(
                source, precision, ends, device, feeds, fused
            )
            continue
        found = calibrate_graph(source, precision, reduce_range, device, feeds)
        lowerings[role] = keep_faster(found, device, feeds, evaluator.only_faster)
    return Quantizer(model, precision, evaluator, budget, device, baseline, lowerings)


@dataclass(frozen=True)
class Quantizer(Generic[BudgetOf]):
    """A calibrated model, ready to be written within a budget.

    Attributes:
        model, precision, evaluator, budget, device: as of :func:`quantize`.
        baseline: results of the model.
        lowerings: the graphs that are quantized, by role.
    """

    model: Bundle
    precision: Precision
    evaluator: Evaluator[BudgetOf]
    budget: BudgetOf
    device: Device
    baseline: Baseline[BudgetOf]
    lowerings: Mapping[str, Lowering]

    def forms(self, raises: Sequence[Raise]) -> dict[str, dict[str, str]]:
        """Form of each layer by role and name, after some raises."""
        forms: dict[str, dict[str, str]] = {}
        for role, lowering in self.lowerings.items():
            forms[role] = {}
            for layer, ladder in lowering.ladders.items():
                steps = [
                    ladder.index(step.form)
                    for step in raises
                    if (step.role, step.layer) == (role, layer.name)
                ]
                forms[role][layer.name] = ladder[max(steps, default=0)]
        return forms

    def rewrite(self, role: str, old: Path, new: Path) -> bool:
        """Write a graph in the precision that was asked for."""
        lowering = self.lowerings[role]
        if self.precision in FORMATS and not lowering.ladders:
            # A filterbank has no layers: the logarithm of a spectrum needs floats.
            optimize_graph(old, new, lowering.provider)
        else:
            lowering.write(self.forms([])[role], new)
        # Activations that are quantized as they come have one scale for a batch.
        return self.precision != "int8" or not lowering.ladders

    def check(self, bundle: Bundle) -> Mapping[str, Any]:
        """Hold a bundle to the budget, raising what costs most; return the figures."""
        real = self.evaluator.real
        quality = self._measure(bundle)
        if real and not quality.utterances:
            raise PluginError("there is no utterance to measure the budget on")
        if real and not quality.measured:
            logger.warning("the budget is not measured: %s", quality)
        raises: Sequence[Raise] = ()
        if real and not quality.within(self.budget):
            logger.info("%s misses the budget: %s", self.precision, quality)
            quality, raises = self._raised(bundle)
        logger.info("%s: %s", self.precision, quality)
        kept: dict[str, list[str]] = {}
        for role, forms in self.forms(raises).items():
            for layer, form in forms.items():
                if form != self.forms([])[role][layer]:
                    kept.setdefault(form, []).append(f"{role}: {layer}")
        return {
            "quantize": {
                "audio": self.evaluator.kind,
                **quality.as_dict(),
                "budget": asdict(self.budget) if real else None,
                "kept": kept,
                "differences": self._differences(bundle),
                **self._speed(bundle),
            }
        }

    @property
    def emulates(self) -> bool:
        """Whether arithmetic of a GPU is measured without one."""
        return self.precision in FORMATS and self.device.provider == "cpu"

    def _measure(self, bundle: Bundle) -> Quality[BudgetOf]:
        with self._runnable(bundle) as runnable:
            return self.baseline.measure(runnable)

    def _runnable(self, bundle: Bundle) -> AbstractContextManager[Bundle]:
        """A bundle that gives here what another one gives where it is for."""
        return emulated(bundle) if self.emulates else nullcontext(bundle)

    def _speed(self, bundle: Bundle) -> dict[str, Any]:
        """Figures of the speed next to fp32, where this machine can tell them."""
        if self.emulates:
            logger.info(
                "%s was measured on the CPU, emulated: its speed is not told",
                self.precision,
            )
            return {"emulated": True}
        where = {"provider": self.device.provider} if self.precision in FORMATS else {}
        seconds = self.baseline.time(bundle)
        ratio = sum(seconds["fp32"].values()) / sum(seconds["quantized"].values())
        ratio = round(ratio, 3)  # what the manifest says is what is warned of
        if ratio < 1:
            logger.warning("%s is slower than fp32 on this machine", self.precision)
        return {"seconds": seconds, "speed_ratio": ratio, "slower": ratio < 1, **where}

    def _raised(self, bundle: Bundle) -> tuple[Quality[BudgetOf], Sequence[Raise]]:
        """Rewrite a bundle's graphs with as few raises as hold the budget."""
        outputs = {r: list(g.outputs) for r, g in self.model.manifest.graphs.items()}
        steps = rank(self.lowerings, outputs, self.baseline.feeds, device=self.device)
        written = self.forms([])
        qualities: dict[int, Quality[BudgetOf]] = {}

        def write(count: int) -> None:
            for role, forms in self.forms(steps[:count]).items():
                if forms != written[role]:
                    name = bundle.manifest.graphs[role].file.name
                    self.lowerings[role].write(forms, bundle.file(name))
                    written[role] = forms

        def holds(count: int) -> bool:
            write(count)
            qualities[count] = self._measure(bundle)
            logger.info("%d layers raised: %s", count, qualities[count])
            return qualities[count].within(self.budget)

        count = fewest(len(steps), holds)
        write(count)
        return qualities[count], steps[:count]

    def _differences(self, bundle: Bundle) -> dict[str, float]:
        """Largest difference of each graph's outputs, on the same inputs."""
        worst = Differences()
        with self._runnable(bundle) as runnable:
            for role, graph in self.model.manifest.graphs.items():
                recorded = self.baseline.feeds.get(role)
                if not recorded:  # a graph that nothing here uses
                    continue
                sides = [Session(b, role, self.device) for b in (self.model, runnable)]
                for feeds in recorded:
                    expected, ours = (
                        side.run(_suited(feeds, side.graph), graph.outputs)
                        for side in sides
                    )
                    for name in graph.outputs:
                        worst.add(role, ours[name], expected[name])
        return {role: float(f"{figure:.2e}") for role, figure in worst.items()}


def _suited(feeds: Feeds, graph: Graph) -> Feeds:
    """Recorded inputs in the types that a graph takes."""
    tensors: dict[str, Tensor | State] = {**graph.inputs, **graph.states}
    return {name: feeds[name].astype(tensors[name].dtype) for name in tensors}


def fewest(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest number up to ``count`` that holds, taking it that more also hold.

    It doubles, then bisects.

    Raises:
        PluginError: if not even ``count`` holds.
    """
    low, high = 0, min(1, count)
    start = time.monotonic()
    while not holds(high):
        if high == count:
            raise PluginError(
                "the budget does not hold even with every layer in fp32; nothing was "
                "written"
            )
        low, high = high, min(2 * high, count)
    while high - low > 1 and time.monotonic() - start < MAX_SECONDS:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
