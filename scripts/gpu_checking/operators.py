"""Part: where the time of graphs goes, by onnxruntime's own profile."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnxruntime as ort
from benchmarking.models import make_text
from gpu_checking.job import Job, Model, make_audio
from gpu_checking.parity import CPU, Variant, variants

from espnet_onnx_plugin.runtime.asr import Speech2Text
from espnet_onnx_plugin.runtime.core import session
from espnet_onnx_plugin.runtime.tts import Text2Speech

#: Operators that are told of each graph, those that take the longest.
TOLD = 6

#: An entry of onnxruntime's profile.
Event: TypeAlias = Mapping[str, Any]


class Share(NamedTuple):
    """An operator's part of a graph.

    Attributes:
        operator: Name, and where it runs: the provider's name, or "kernel" for the time
            that the GPU itself was busy.
        nodes: How many of them there are in a run.
        milliseconds: Of a run.
    """

    operator: str
    nodes: float
    milliseconds: float


def operators(job: Job) -> None:
    """Profile a search for one utterance and for several, and a synthesis."""
    # CUDA reads it as it starts. Without, the profile has the times of launches alone.
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    chosen = [CPU]
    if job.provider != "cpu":
        chosen += [v for v in variants(job.provider) if v.name == "fp16"]
    for variant in chosen:
        for batch in (1, job.sizes.batch):
            _profile(job, "librispeech", f"search, {batch}", variant, _search(batch))
    _profile(job, "hifigan", "synthesis", CPU, _synthesis)


#: Opens a model for a job and gives what runs it once.
Opening: TypeAlias = Callable[[Job, Model, Variant], Callable[[], object]]


def _search(size: int) -> Opening:
    def opened(job: Job, model: Model, variant: Variant) -> Callable[[], object]:
        options = {**model.config.settings[0].search_options, "lm_weight": 0.0}
        bundle, given = model.bundle(variant.bundle), variant.session
        speech2text = Speech2Text(bundle, job.provider, session=given, **options)
        rate = speech2text.speech.sampling_rate
        audio = [make_audio(job.sizes.audio_seconds, rate, i) for i in range(size)]
        batch = [speech2text.prepare(one) for one in audio]
        return lambda: speech2text.batch(batch)

    return opened


def _synthesis(job: Job, model: Model, variant: Variant) -> Callable[[], object]:
    bundle = model.bundle(variant.bundle)
    text2speech = Text2Speech(
        bundle,
        job.provider,
        session=variant.session,
        **model.config.settings[0].search_options,
    )
    inputs = job.work_dir / "inputs" / model.name
    [path] = make_text(job.sizes.speech_seconds[0], bundle, inputs).files
    ids = np.load(path)
    return lambda: text2speech(ids)


def _profile(
    job: Job, name: str, work: str, variant: Variant, opening: Opening
) -> None:
    """Run a model twice, and write down the second run of each graph."""
    model = job.model(name)
    directory = job.work_dir / "profiles" / f"{model.name}_{work}_{variant.name}"
    directory.mkdir(parents=True, exist_ok=True)
    plain, count = session._open, itertools.count()
    opened: list[tuple[str, ort.InferenceSession]] = []

    def profiled(
        path: Path | bytes, options: ort.SessionOptions, *others: Any
    ) -> ort.InferenceSession:
        graph = "search" if isinstance(path, bytes) else Path(path).stem
        options.enable_profiling = True
        options.profile_file_prefix = str(directory / f"{graph}_{next(count)}")
        made = plain(path, options, *others)
        opened.append((graph, made))
        return made

    session._open = profiled
    try:
        once = opening(job, model, variant)
        for _ in range(2):
            once()
    finally:
        session._open = plain
    for graph, one in opened:
        file = Path(one.end_profiling())
        runs, milliseconds, shares = read(json.loads(file.read_text(encoding="utf-8")))
        head = {"model": model.name, "variant": variant.name, "work": work}
        for share in shares:
            job.add(
                **head,
                graph=graph,
                runs=runs,
                **{"ms a run": milliseconds},
                operator=share.operator,
                nodes=share.nodes,
                ms=share.milliseconds,
            )


def read(events: Sequence[Event]) -> tuple[int, float, list[Share]]:
    """Return what a profile says of the second half of a graph's runs.

    The first half is what warms up.

    Args:
        events: The profile's.

    Returns:
        The number of runs, milliseconds of one, and the operators that take the
        longest.
    """
    runs = sorted(
        (event for event in events if event["name"] == "model_run"),
        key=lambda event: event["ts"],
    )
    runs = runs[len(runs) // 2 :]
    if not runs:
        return 0, 0.0, []
    nodes: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for event in events:
        operator = _operator(event)
        if operator is not None and event["ts"] >= runs[0]["ts"]:
            nodes[operator] += 1
            spent[operator] += event["dur"]
    shares = [
        Share(name, nodes[name] / len(runs), micro / 1000 / len(runs))
        for name, micro in spent.most_common(TOLD)
    ]
    total = sum(event["dur"] for event in runs)
    return len(runs), total / 1000 / len(runs), shares


def _operator(event: Event) -> str | None:
    """Return the operator that an event is of, and where it ran."""
    given = event.get("args", {})
    if event.get("cat") == "Kernel":
        return f"{given.get('op_name', event['name'])}, kernel"
    if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
        where = given.get("provider", "").removesuffix("ExecutionProvider")
        return f"{given.get('op_name')}, {where}"
    return None
