"""A worker's systems of streams, which are fed part by part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from benchmarking.recognition import load_pytorch, on_device
from benchmarking.settings import StreamDecode

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.runtime.recognition.stream import feed_together
from espnet_onnx_plugin.tasks import door_called, open_model

COMMAND = "asr_inference_streaming"


class Recognized(NamedTuple):
    """Results of streams.

    Attributes:
        results: The n-best list of each.
        seconds: By part of the system.
        delays: (parts, streams) seconds from the end of a part until it is recognized.
    """

    results: Sequence[Sequence[Any]]
    seconds: dict[str, float]
    delays: np.ndarray


class Streams(NamedTuple):
    """A system.

    Attributes:
        streams: How many it recognizes at once.
        length: Samples of a part.
        recognize: From the parts of each stream, equally many, to results.
    """

    streams: int
    length: int
    recognize: Callable[[Sequence[Sequence[np.ndarray]]], Recognized]


def open_bundle(spec: dict[str, Any]) -> Streams:
    """Open a bundle; neither torch, nor ESPnet, nor onnx."""
    model = open_model(
        read_bundle(spec["model"]),
        COMMAND,
        frontend="espnet",
        **on_device(spec),
        **spec["options"],
    )

    def recognize(streams: Sequence[Sequence[np.ndarray]]) -> Recognized:
        seconds: Counter[str] = Counter()
        opened, delays = [model.open() for _ in streams], []
        for number, parts in enumerate(zip(*streams, strict=True), 1):
            start = time.perf_counter()
            ended = feed_together(model, opened, parts, number == len(streams[0]))
            delays.append([time.perf_counter() - start] * len(streams))
            seconds.update(model.engine.seconds)
        results = [utterance.results for [utterance] in ended]
        return Recognized(results, seconds, np.array(delays))

    return Streams(spec["streams"], spec["sim_chunk_length"], recognize)


def open_pytorch(spec: dict[str, Any]) -> Streams:
    """Load ESPnet's own inference, which takes one stream at a time."""
    speech2text, watch = load_pytorch(spec, door_called(COMMAND))

    def recognize(streams: Sequence[Sequence[np.ndarray]]) -> Recognized:
        watch.seconds.clear()
        results, took = [], np.zeros((len(streams[0]), len(streams)))
        for i, parts in enumerate(streams):
            for number, part in enumerate(parts):
                start = time.perf_counter()
                result = speech2text(part, is_final=number == len(parts) - 1)
                took[number, i] = time.perf_counter() - start
            results.append(result)
        # Parts that end at the same time wait for those of the streams before.
        return Recognized(results, dict(watch.seconds), np.cumsum(took, axis=1))

    return Streams(spec["streams"], spec["sim_chunk_length"], recognize)


def measure(system: Streams, speech: np.ndarray) -> dict[str, Any]:
    """Recognize streams and return the fields of a StreamDecode.

    Args:
        system: Recognizes them.
        speech: (streams, samples), or (samples,) of one.
    """
    streams = speech if system.streams > 1 else speech[None]
    # As ESPnet's command cuts an utterance.
    cuts = range(system.length, streams.shape[1] + 1, system.length)
    start = time.perf_counter()
    made = system.recognize([np.split(stream, cuts) for stream in streams])
    total = time.perf_counter() - start
    best = [result[0] for result in made.results if result]
    parts = {name: made.seconds.get(name, 0.0) for name in StreamDecode.PARTS[:-1]}
    return {
        "seconds": total,
        "parts": {**parts, "rest": total - sum(parts.values())},
        "tokens": [token for _, _, tokens, _ in best for token in tokens],
        "score": sum(float(hypothesis.score) for *_, hypothesis in best),
        "text": " ".join(text or "" for text, *_ in best),
        "delays": made.delays[:-1].ravel().tolist(),
        "last_delays": made.delays[-1].tolist(),
    }
