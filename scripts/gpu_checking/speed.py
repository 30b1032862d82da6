"""Parts: speed and memory beside ESPnet's own inference on the same device."""

from __future__ import annotations

import contextlib
import difflib
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking.drive import Worker
from benchmarking.models import make_text
from benchmarking.settings import BatchDecode, Run, Synthesis
from gpu_checking.gpu import watch_memory
from gpu_checking.job import Job, Model, make_audio
from gpu_checking.parity import Variant, searching, variants
from gpu_checking.results import Row
from gpu_checking.sizes import SPREAD

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.tasks import find

PYTORCH = "PyTorch"

#: What PyTorch computes in float16, by its own choice or wholly.
AUTOCAST, FLOAT16 = "PyTorch, autocast to fp16", "PyTorch, dtype float16"


@dataclass(frozen=True)
class System:
    """A system that is measured.

    Attributes:
        name: In the tables.
        bundle: Variant of its bundle; None: PyTorch.
        spec: What its worker is told besides.
        warm_up: Runs before those that are timed.
    """

    name: str
    bundle: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    warm_up: int = 1


def systems(job: Job, *more: System) -> list[System]:
    """Return PyTorch, then the bundles, then others, which matter less."""
    return [System(PYTORCH), *map(_system, variants(job.provider)), *more]


def _system(variant: Variant) -> System:
    session = {"session": dict(variant.session)}
    return System(variant.name, variant.bundle, session, variant.warm_up)


@dataclass(frozen=True)
class Setting:
    """A setting that systems are measured in.

    Attributes:
        name: In the tables.
        model: The model.
        inputs: Files by what the tables call them; a system takes them in this order.
        run: What its workers answer.
        options: ESPnet's decoding options.
        audio_seconds: Length of each input; None where the answer tells.
        spec: What the workers are told besides.
    """

    name: str
    model: Model
    inputs: Mapping[str, Path]
    run: type[Run]
    options: Mapping[str, Any]
    audio_seconds: Sequence[float] | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)


def beam(job: Job) -> None:
    """Search of beam 10, with and without LM, one utterance and a batch at a time."""
    model, sizes = job.model("librispeech"), job.sizes
    options = model.config.settings[0].search_options
    inputs, seconds = _batches(job, model, (1, sizes.batch), sizes.audio_seconds)
    ways = [*map(_system, searching(job.provider))]
    float16 = System(FLOAT16, None, {"dtype": "float16"})
    more = [] if job.provider == "cpu" else [float16]
    failed: list[str] = []
    for lm_weight in (0.0, 0.6):
        name = f"beam {options['beam_size']}, " + (
            f"LM {lm_weight}" if lm_weight else "no LM"
        )
        chosen = {**options, "lm_weight": lm_weight}
        spec = {"batches": "search", "lm": bool(lm_weight)}
        setting = Setting(name, model, inputs, BatchDecode, chosen, seconds, spec)
        failed += measure(
            job, setting, systems(job, *ways, *([] if lm_weight else more))
        )
    refuse(failed)


def greedy(job: Job) -> None:
    """The CTC's best token of each frame, of a large batch."""
    model, sizes = job.model("librispeech"), job.sizes
    size = sizes.greedy_batch
    inputs, seconds = _batches(job, model, (size,), sizes.audio_seconds)
    spec = {"batches": "greedy", "lm": False}
    setting = Setting("CTC, greedy", model, inputs, BatchDecode, {}, seconds, spec)
    autocast = System(AUTOCAST, None, {"autocast": True})
    refuse(measure(job, setting, systems(job, autocast)))


def owsm(job: Job) -> None:
    """Beam search of a Whisper-style model."""
    model, sizes = job.model("owsm"), job.sizes
    options = model.config.settings[0].search_options
    inputs, seconds = _batches(job, model, (1,), sizes.long_seconds)
    name = f"beam {options['beam_size']}"
    spec = {"batches": "search", "lm": False}
    setting = Setting(name, model, inputs, BatchDecode, options, seconds, spec)
    ways = map(_system, searching(job.provider))
    refuse(measure(job, setting, systems(job, *ways)))


def speech(job: Job) -> None:
    """Synthesis by HiFi-GAN behind a FastSpeech 2, and by VITS."""
    failed: list[str] = []
    for name in dict.fromkeys(job.sizes.models[name] for name in ("hifigan", "vits")):
        model = Model(job, name)
        directory = job.work_dir / "inputs" / name
        inputs = {}
        for seconds in job.sizes.speech_seconds:
            [path] = make_text(seconds, model.bundle("fp32"), directory).files
            inputs[f"about {seconds:g} s"] = path
        options = model.config.settings[0].search_options
        waves = job.work_dir / "waves" / name
        waves.mkdir(parents=True, exist_ok=True)
        spec = {"waves": str(waves), "mkl": False}
        setting = Setting("synthesis", model, inputs, Synthesis, options, None, spec)
        failed += measure(job, setting, systems(job))
    refuse(failed)


def refuse(failed: Sequence[str]) -> None:
    """Refuse a part in which a bundle was not measured.

    Raises:
        PluginError: Naming those.
    """
    if failed:
        raise PluginError(f"not measured: {', '.join(failed)}")


def _batches(
    job: Job, model: Model, batches: Sequence[int], longest: float
) -> tuple[dict[str, Path], list[float]]:
    """Write the utterances of batches; return their files, and seconds of each."""
    rate = model.bundle("fp32").manifest.speech.sampling_rate
    directory = job.work_dir / "inputs" / model.name
    directory.mkdir(parents=True, exist_ok=True)
    files, totals = {}, []
    for size in batches:
        lengths = np.linspace(longest, SPREAD * longest, size)
        audio = [make_audio(s, rate, number) for number, s in enumerate(lengths)]
        path = directory / f"batch_{size}_{longest:g}.npz"
        np.savez(path, *audio)
        files["1 utterance" if size == 1 else f"{size} utterances"] = path
        totals.append(float(lengths.sum()))
    return files, totals


def _spec(job: Job, setting: Setting, system: System) -> dict[str, Any]:
    """Return what a worker is told, see benchmarking/worker.py.

    Raises:
        PluginError: If the system's bundle was not made.
    """
    spec, model = {**setting.spec, **system.spec}, setting.model
    with_lm, options = spec.pop("lm", False), dict(setting.options)
    task = model.config.model.task
    modules = ["onnxruntime"]
    if system.bundle is None:
        chosen: Any = model.checkpoints().espnet_options(with_lm)
        modules = [f"espnet2.bin.{find(task).door.command}"]
        if "dtype" in spec:
            options["dtype"] = spec.pop("dtype")
    else:
        chosen = str(model.bundle(system.bundle).path)
    return {
        "system": re.sub(r"\W+", "_", system.name),
        "task": task,
        "model": chosen,
        "options": options,
        "threads": 1,
        "provider": job.provider,
        "modules": modules,
        "inputs": [str(path) for path in setting.inputs.values()],
        **spec,
    }


def measure(job: Job, setting: Setting, chosen: Sequence[System]) -> list[str]:
    """Measure systems one after the other, each alone on the device, and write rows.

    The process of the next one starts beside, and imports what it needs. What fails is
    a row that says why.

    Returns:
        Names of the bundles that failed.
    """
    failed: list[str] = []
    logs = job.work_dir / "log" / "systems"
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        def start(system: System) -> Worker | PluginError:
            try:
                spec = _spec(job, setting, system)
            except PluginError as e:
                return e
            name = f"{setting.model.name} {setting.name} {system.name}"
            log = logs / f"{re.sub(r'[^a-z0-9.]+', '_', name.lower())}.log"
            return stack.enter_context(Worker(spec, setting.run, log))

        table = _Table(job, setting)
        following = start(chosen[0])
        for system, after in zip(chosen, [*chosen[1:], None]):
            current = following
            if after is not None:
                following = start(after)
            try:
                if isinstance(current, PluginError):
                    raise current
                with current:
                    runs = _runs(job, setting, current, system.warm_up)
                    for number, told in enumerate(runs):
                        table.add(system, number, *told)
            except PluginError as e:
                table.fail(system, str(e))
                if system.bundle is not None:
                    failed.append(f"{setting.model.name} in {system.name}")
    return failed


def _runs(
    job: Job, setting: Setting, worker: Worker, warm_up: int
) -> Iterator[tuple[list[Run], Run, float | None]]:
    """Yield the runs of each input, the first of those before them, and the GPU's
    memory.
    """
    with watch_memory(job.provider) as peak:
        for number in range(len(setting.inputs)):
            first, *_ = [worker.run(number) for _ in range(warm_up)]
            runs = [worker.run(number) for _ in range(job.sizes.repeats)]
            yield runs, first, peak.mb


class _Table:
    """Rows of a setting, which compare systems with the first one's.

    Args:
        job: Takes the rows.
        setting: What is measured.
    """

    def __init__(self, job: Job, setting: Setting):
        self._job, self._setting = job, setting
        self._inputs = list(setting.inputs)
        self._rates: dict[int, float] = {}
        self._tokens: dict[int, Sequence[Sequence[int]]] = {}

    def _head(self, system: System, number: int | None) -> Row:
        setting = self._setting
        row: Row = {"model": setting.model.name, "setting": setting.name}
        row["input"] = None if number is None else self._inputs[number]
        return {**row, "system": system.name}

    def fail(self, system: System, reason: str) -> None:
        """Write down that a system was not measured."""
        self._job.add(**self._head(system, None), failed=reason[:200])

    def add(
        self,
        system: System,
        number: int,
        runs: Sequence[Run],
        warm_up: Run,
        gpu_mb: float | None,
    ) -> None:
        """Write down the runs of a system on an input, and the one before them."""
        seconds = [run.seconds for run in runs]
        median = statistics.median(seconds)
        if self._setting.audio_seconds is None:
            audio = runs[0].audio_seconds
        else:
            audio = self._setting.audio_seconds[number]
        rate = audio / median
        first = system.name == PYTORCH
        if first:
            self._rates[number] = rate
        row: Row = {
            "median s": median,
            "spread s": f"{min(seconds):.3f}-{max(seconds):.3f}",
            "first run s": warm_up.seconds,
            "RTFx": rate,
            "speed-up": None,
            "speed-up on its best": None,
            "GPU MiB": gpu_mb,
            "allocated MiB": getattr(runs[-1], "allocated_mb", None),
            "host MiB": max(run.peak_memory_mb for run in runs),
        }
        if self._rates and not first:
            row["speed-up on its best"] = rate / max(self._rates.values())
            if number in self._rates:
                row["speed-up"] = rate / self._rates[number]
        if isinstance(runs[0], BatchDecode):
            row["tokens equal"] = self._agreement(number, runs[0].tokens, first)
        else:
            row["first audio s"] = statistics.median(
                run.first_audio_seconds for run in runs
            )
        self._job.add(**self._head(system, number), **row)

    def _agreement(
        self, number: int, tokens: Sequence[Sequence[int]], first: bool
    ) -> float | None:
        """Return the share of tokens that PyTorch gives too."""
        if first:
            self._tokens[number] = tokens
        if first or number not in self._tokens:
            return None
        pairs = zip(tokens, self._tokens[number], strict=True)
        return statistics.mean(
            difflib.SequenceMatcher(None, ours, theirs, autojunk=False).ratio()
            for ours, theirs in pairs
        )
