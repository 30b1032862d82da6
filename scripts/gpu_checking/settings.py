"""Part: what options of onnxruntime's CUDA do to the times of single graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple

import onnxruntime as ort
from gpu_checking.job import Job
from gpu_checking.results import Cell
from gpu_checking.speed import refuse
from measure_rules import SIZES, make_feeds, runner

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core import gpu
from espnet_onnx_plugin.runtime.core.buckets import bucket
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.providers import Options, providers
from espnet_onnx_plugin.runtime.core.runner import reason
from espnet_onnx_plugin.runtime.core.session import session_options
from espnet_onnx_plugin.runtime.synthesis.vocoder import FEW_LENGTHS

#: Options that differ from the product's, by what the table calls them.
CONVOLUTIONS: Mapping[str, Options] = {
    "one pixel wide": {"cudnn_conv1d_pad_to_nc1d": "0"},
    "all algorithms": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "default algorithm": {"cudnn_conv_algo_search": "DEFAULT"},
    "bias fused": {"fuse_conv_bias": "1"},
    "channels last": {"prefer_nhwc": "1"},
    "channels last, all algorithms": {
        "prefer_nhwc": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
    },
    "TF32": {"use_tf32": "1"},
}

#: What all launches of a graph cost, and what they would as one.
LAUNCHES: Mapping[str, Options] = {
    "one CUDA graph": {"enable_cuda_graph": "1"},
    "TF32": {"use_tf32": "1"},
}

#: Runs of which the median is told.
RUNS = 10

#: By how much the other length is longer.
LONGER = 16


class Work(NamedTuple):
    """A graph and what it is run on.

    Attributes:
        model: Its model.
        role: Its role in a bundle.
        changes: Options that are tried on it.
        sizes: Of its inputs' axes.
        axis: Which of them has two lengths; None where there are no convolutions.
    """

    model: str
    role: str
    changes: Mapping[str, Options]
    sizes: Mapping[str, int]
    axis: str | None = None


def settings(job: Job) -> None:
    """Time single graphs with one option after the other.

    They are a vocoder, an encoder of a batch, and steps of a search of one utterance. A
    row says so where a graph does not run with a change, and that is no failure.
    """
    frames = bucket(int(100 * job.sizes.audio_seconds))
    batch = {"utterances": job.sizes.batch, "frames_in": frames}
    few = {"frames": FEW_LENGTHS}
    works = (
        Work("librispeech", "decoder", LAUNCHES, {}),
        Work("librispeech", "lm", LAUNCHES, {}),
        Work("hifigan", "vocoder", CONVOLUTIONS, few, "frames"),
        Work("librispeech", "encoder", CONVOLUTIONS, batch, "frames_in"),
    )
    variants: tuple[str, ...] = ("fp32", "fp16")
    if job.provider == "cpu":  # which has none of the options, nor float16
        variants = ("fp32",)
    else:
        gpu.start(job.provider)
    failed: list[str] = []
    for work in works:
        for variant in variants:
            bundle = job.model(work.model).bundle(variant)
            changes = {} if job.provider == "cpu" else work.changes
            for name, changed in {"as it is": {}, **changes}.items():
                head = {"graph": work.role, "variant": variant, "options": name}
                try:
                    job.add(**head, **_measure(bundle, work, job.provider, changed))
                except Exception as e:  # onnxruntime's exceptions have no common base
                    job.add(**head, failed=reason(e)[:200])
                    if not changed:
                        failed.append(f"{work.role} in {variant}")
    refuse(failed)


def _measure(
    bundle: Bundle, work: Work, provider: str, changed: Options
) -> dict[str, Cell]:
    """Return milliseconds of the first run, of one more, and after another length."""
    graph, device = bundle.manifest.graphs[work.role], Device(provider)
    session = ort.InferenceSession(
        str(bundle.file(graph.file.name)),
        session_options(device),
        providers=[(name, {**o, **changed}) for name, o in providers(device, graph)],
        enable_fallback=0,
    )
    sizes = {**SIZES, **work.sizes}
    start = time.perf_counter()
    run = runner(session, make_feeds(session, sizes), device, warm_up=0)
    first = time.perf_counter() - start
    told: dict[str, Cell] = {
        "first run ms": first * 1e3,
        "ms": statistics.median(run() for _ in range(RUNS)) * 1e3,
        "after another length ms": None,
    }
    if work.axis is not None:
        longer = {**sizes, work.axis: sizes[work.axis] + LONGER}
        other = runner(session, make_feeds(session, longer), device, warm_up=0)
        anew = [(other(), run())[1] for _ in range(RUNS)]
        told["after another length ms"] = statistics.median(anew) * 1e3
    return told
