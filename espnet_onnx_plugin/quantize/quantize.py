"""Quantization within a quality budget: bundle to bundle.

The bundle is written in the precision that was asked for and held against its parent
on the validation set, by the recipe's own search, or by the speech that it makes. Where
it misses the budget, layers are kept in higher precision, those first that cost most,
until it holds.
"""

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple, Union

import onnxruntime as ort

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.derive import derive
from espnet_onnx_plugin.bundle.graph_file import load_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budget import Budget, Quality, fewest
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.evaluate.recognition import Reader, Utterances
from espnet_onnx_plugin.evaluate.synthesis import (
    Speaker,
    SpeechBudget,
    SpeechQuality,
    Spoken,
)
from espnet_onnx_plugin.optimize.fuse import optimize_graph
from espnet_onnx_plugin.quantize.half import to_half
from espnet_onnx_plugin.quantize.layers import find_layers
from espnet_onnx_plugin.quantize.lowering import LADDERS, Lowering
from espnet_onnx_plugin.quantize.sensitivity import Raise, rank
from espnet_onnx_plugin.runtime.core.arithmetic import products_saturate
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.tasks import task_of

logger = logging.getLogger(__name__)

FP16 = "fp16"
PRECISIONS = (*LADDERS, FP16)

NO_UTTERANCES = Utterances()
DEFAULT_BUDGET = Budget()


def quantize(
    model: Bundle,
    output_dir: Path,
    precision: str = "int8",
    utterances: Union[Utterances, Spoken] = NO_UTTERANCES,
    budget: Union[Budget, SpeechBudget] = DEFAULT_BUDGET,
) -> Bundle:
    """Write a bundle in lower precision, with the figures of a reading.

    Args:
        model: the bundle that was exported.
        output_dir: the new bundle.
        precision: one of :data:`PRECISIONS`.
        utterances: audio, or texts for a model that speaks, to measure on; without,
            nothing holds the budget, and convolutions stay in fp32.
        budget: what quantization may cost.

    Raises:
        PluginError: if the budget does not hold; nothing is written then.
    """
    if precision not in PRECISIONS:
        raise PluginError(
            f"precision '{precision}' is unknown; use one of {', '.join(PRECISIONS)}"
        )
    if not utterances.real:
        logger.warning(
            "nothing to calibrate on: convolutions stay in fp32 and the budget is not "
            "measured; give %s",
            utterances.option,
        )
    quantizer = _Quantizer(model, precision, utterances, budget)
    made_by = dict(
        step="quantize",
        precision=precision,
        reduce_range=quantizer.reduce_range,
        budget=asdict(budget),
        calibration=utterances.as_dict(),
        onnxruntime=ort.__version__,
    )
    return derive(
        model, output_dir, made_by, quantizer.rewrite, quantizer.check, precision
    )


@dataclass(frozen=True)
class _Quantizer:
    model: Bundle
    precision: str
    utterances: Union[Utterances, Spoken]
    budget: Union[Budget, SpeechBudget]

    @cached_property
    def reduce_range(self) -> bool:
        """Whether weights get 7 bits: fast here, and no product saturates."""
        return products_saturate()

    @cached_property
    def reader(self) -> Union[Reader, Speaker]:
        return self.utterances.reader(self.model)

    @cached_property
    def lowerings(self) -> Dict[str, Lowering]:
        """The graphs that are quantized, by role."""
        real = self.utterances.real
        return {
            role: Lowering(
                self.model.file(graph.file.name),
                self.precision,
                self.reduce_range,
                self.reader.feeds.get(role, ()) if real else (),
                only_faster=task_of(self.model).gives == "speech",
                device=Device(),
            )
            for role, graph in self.model.manifest.graphs.items()
            if self.precision != FP16
        }

    def forms(self, raises: List[Raise]) -> Dict[str, Dict[str, str]]:
        """Form of each layer by role and name, after some raises."""
        forms = {}
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
        if role in self.lowerings:
            self.lowerings[role].write(self.forms([])[role], new)
            # Activations that are quantized as they come have one scale for a batch.
            return self.precision != "int8" or not self.lowerings[role].ladders
        # A filterbank has no layers: the logarithm of a spectrum needs floats.
        if self.precision == FP16 and find_layers(load_graph(old)):
            to_half(old, new)
        else:
            optimize_graph(old, new, "cuda" if self.precision == FP16 else "cpu")
        return True

    def check(self, bundle: Bundle) -> Mapping[str, Any]:
        """Hold a bundle to the budget, raising what costs most; return the figures."""
        real = self.utterances.real

        def measured() -> Union[Quality, SpeechQuality]:
            return self.reader.quality(bundle)

        quality = measured()
        if real and not quality.utterances:
            raise PluginError("there is no utterance to measure the budget on")
        if real and not quality.measured:
            logger.warning("the budget is not measured: %s", quality)
        raises: List[Raise] = []
        if real and not quality.within(self.budget):
            logger.info("%s misses the budget: %s", self.precision, quality)
            if self.precision == FP16:
                raise PluginError(
                    f"fp16 misses the budget: {quality}; none was written"
                )
            quality, raises = self._raised(bundle, measured)
        logger.info("%s: %s", self.precision, quality)
        speed = self._speed(bundle)
        kept: Dict[str, List[str]] = {}
        for role, forms in self.forms(raises).items():
            for layer, form in forms.items():
                if form != self.forms([])[role][layer]:
                    kept.setdefault(form, []).append(f"{role}: {layer}")
        return {
            "quantize": {
                "audio": self.utterances.kind,
                **quality.as_dict(),
                "budget": asdict(self.budget) if real else None,
                "kept": kept,
                "differences": self._differences(bundle),
                **speed,
            }
        }

    def _speed(self, bundle: Bundle) -> Dict[str, Any]:
        """Figures of the speed next to fp32, where this machine can tell them."""
        if self.precision == FP16:
            logger.info("fp16 was measured on the CPU, emulated: its speed is not told")
            return {"emulated": True}
        seconds = self.reader.speed(bundle)
        ratio = sum(seconds["fp32"].values()) / sum(seconds["quantized"].values())
        ratio = round(ratio, 3)  # what the manifest says is what is warned of
        if ratio < 1:
            logger.warning("%s is slower than fp32 on this machine", self.precision)
        return {"seconds": seconds, "speed_ratio": ratio, "slower": ratio < 1}

    def _raised(self, bundle: Bundle, measured: Any) -> Tuple[Any, List[Raise]]:
        """Rewrite a bundle's graphs with as few raises as hold the budget."""
        outputs = {r: list(g.outputs) for r, g in self.model.manifest.graphs.items()}
        steps = rank(self.lowerings, outputs, self.reader.feeds, Device())
        written = self.forms([])
        qualities: Dict[int, Any] = {}

        def write(count: int) -> None:
            for role, forms in self.forms(steps[:count]).items():
                if forms != written[role]:
                    name = bundle.manifest.graphs[role].file.name
                    self.lowerings[role].write(forms, bundle.file(name))
                    written[role] = forms

        def holds(count: int) -> bool:
            write(count)
            qualities[count] = measured()
            logger.info("%d layers raised: %s", count, qualities[count])
            return qualities[count].within(self.budget)

        count = fewest(len(steps), holds)
        write(count)
        return qualities[count], steps[:count]

    def _differences(self, bundle: Bundle) -> Dict[str, float]:
        """Largest difference of each graph's outputs, on the same inputs."""
        figures = {}
        for role, graph in self.model.manifest.graphs.items():
            if not self.reader.feeds.get(role):  # a graph that nothing here uses
                continue
            sides = [Session(b, role, Device()) for b in (self.model, bundle)]
            worst = 0.0
            for feeds in self.reader.feeds[role]:
                expected, ours = (s.run(feeds, graph.outputs) for s in sides)
                worst = max(
                    worst,
                    *(difference(ours[name], expected[name]) for name in graph.outputs),
                )
            figures[role] = float(f"{worst:.2e}")
        return figures
