"""A system in a process of its own: reads utterances' numbers, answers with decodes.

Run as ``python -m benchmarking.worker SPEC``. SPEC is a JSON: ``system``; ``task``;
``model``, a bundle's directory or options that name ESPnet's files; ``options`` of the
search; ``threads``; ``audio``, numpy files. Answers are JSON lines on standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.memory import peak_memory_mb

# As the tables have them; rest is the total less these.
PARTS = ("frontend", "encoder", "decoder", "lm", "ctc")

# Whose model ESPnet's class has, where it is not the task's.
MODELS = {"slu": "asr"}

# From an utterance to results and seconds by part.
System = Callable[[np.ndarray], "tuple[list[Any], dict[str, float]]"]


def open_bundle(spec: dict[str, Any]) -> System:
    """Open a bundle; neither torch, nor ESPnet, nor onnx."""
    from espnet_onnx_plugin.bundle import read_bundle
    from espnet_onnx_plugin.runtime.tasks import open_model

    bundle = read_bundle(spec["model"])
    speech2text = open_model(bundle, threads=spec["threads"], **spec["options"])

    def decode(speech: np.ndarray) -> tuple[list[Any], dict[str, float]]:
        return speech2text(speech), speech2text.timing._asdict()

    return decode


class Stopwatch:
    """Seconds by part of what ESPnet runs; a part within another counts once."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside for a part, and not for the one around it."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def watch(self, name: str, owner: Any, *methods: str) -> None:
        """Count an object's methods, those that it has, for a part."""

        def timed(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.part(name):
                    return method(*args, **kwargs)

            return call

        for method in methods:
            if hasattr(owner, method):
                setattr(owner, method, timed(getattr(owner, method)))


def open_pytorch(spec: dict[str, Any]) -> System:
    """Load ESPnet's own inference."""
    import torch

    from espnet_onnx_plugin.runtime.tasks import model_class

    torch.set_num_threads(spec["threads"])
    module = importlib.import_module(f"espnet2.bin.{spec['task']}_inference")
    cls = getattr(module, model_class(spec["task"]).__name__)
    speech2text = cls(**spec["model"], **spec["options"], device="cpu")
    model = getattr(speech2text, f"{MODELS.get(spec['task'], spec['task'])}_model")
    scorers = speech2text.beam_search.scorers
    watch = Stopwatch()
    watch.watch("frontend", model.frontend, "forward")
    # As the graphs of a bundle have it.
    for name in ("normalize", "preencoder", "encoder"):
        watch.watch("encoder", getattr(model, name), "forward")
    watch.watch("encoder", model.ctc, "log_softmax")
    for name in ("decoder", "lm"):
        watch.watch(name, scorers.get(name), "batch_score", "score")
    prefix = ("batch_init_state", "init_state", "batch_score_partial", "score_partial")
    watch.watch("ctc", scorers.get("ctc"), *prefix, "select_state")

    def decode(speech: np.ndarray) -> tuple[list[Any], dict[str, float]]:
        watch.seconds.clear()
        return speech2text(speech), dict(watch.seconds)

    return decode


def measure(system: System, speech: np.ndarray) -> dict[str, Any]:
    """Decode one utterance and return the fields of a Decode."""
    start = time.perf_counter()
    results, seconds = system(speech)
    total = time.perf_counter() - start
    if isinstance(results, tuple):  # with the tokens of intermediate CTCs
        results = results[0]
    text, _, tokens, *_, hypothesis = results[0]
    parts = {name: seconds.get(name, 0.0) for name in PARTS}
    return {
        "seconds": total,
        "parts": {**parts, "rest": total - sum(parts.values())},
        "tokens": list(tokens),
        "score": float(hypothesis.score),
        "text": text,
        "peak_memory_mb": peak_memory_mb(),
    }


def main() -> None:
    """Answer until standard input ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    opener = open_pytorch if spec["system"] == "pytorch" else open_bundle
    try:
        system = opener(spec)
    except PluginError as e:
        sys.exit(str(e))
    for line in sys.stdin:
        speech = np.load(spec["audio"][int(line)])
        print(json.dumps(measure(system, speech)), file=answers, flush=True)


if __name__ == "__main__":
    main()
