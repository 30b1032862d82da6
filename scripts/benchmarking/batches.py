"""A worker's systems that recognize several utterances together, by search or greedily.

Every result ends as Python's numbers, so that a device has done its work by then.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from benchmarking.recognition import on_device, torch_device

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.asr import Speech2Text
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.protocol import Search
from espnet_onnx_plugin.tasks import find, open_model


class Recognized(NamedTuple):
    """Best hypothesis of an utterance.

    Attributes:
        tokens: Its token_int.
        score: Its score, None without a search.
    """

    tokens: list[int]
    score: float | None


class System(NamedTuple):
    """A system.

    Attributes:
        recognize: From utterances, each (samples,), to the results of each.
        allocated_mb: MiB of the device that torch has allocated at most so far.
    """

    recognize: Callable[[Sequence[np.ndarray]], list[Recognized]]
    allocated_mb: Callable[[], float | None]


class GreedySpeech2Text(Speech2Text):
    """Recognize speech by the CTC's best token of each frame."""

    def _build_search(self) -> Search:
        return GreedySearch(self._described)


def open_bundle(spec: Mapping[str, Any]) -> System:
    """Open a bundle; neither torch, nor ESPnet, nor onnx."""
    if spec["batches"] == "greedy":
        model = GreedySpeech2Text(spec["model"], **on_device(spec))
    else:
        bundle = read_bundle(spec["model"])
        model = open_model(bundle, **on_device(spec), **spec["options"])

    def recognize(utterances: Sequence[np.ndarray]) -> list[Recognized]:
        results = model.batch([model.prepare(speech) for speech in utterances])
        return [_best(nbest) for nbest in results]

    return System(recognize, lambda: None)


def _best(nbest: Sequence[tuple[Any, ...]]) -> Recognized:
    _, _, tokens, *_, hypothesis = nbest[0]
    return Recognized(list(tokens), float(hypothesis.score))


def open_pytorch(spec: Mapping[str, Any]) -> System:
    """Load ESPnet's own inference.

    ``spec`` may hold ``autocast``, which has PyTorch compute in float16 what it deems
    fit.
    """
    import torch

    device, task = torch_device(spec), spec["task"]
    module = importlib.import_module(f"espnet2.bin.{find(task).door.command}")
    speech2text = module.Speech2Text(**spec["model"], **spec["options"], device=device)
    model = getattr(speech2text, f"{task}_model")

    def search(utterances: Sequence[np.ndarray]) -> list[Recognized]:
        if len(utterances) == 1:
            return [_best(speech2text(utterances[0]))]
        if not hasattr(speech2text, "batch_decode"):
            raise PluginError("this ESPnet decodes one utterance at a time")
        return [_best(nbest) for nbest in speech2text.batch_decode(list(utterances))]

    @torch.no_grad()
    def greedy(utterances: Sequence[np.ndarray]) -> list[Recognized]:
        # As ESPnet's batch_decode makes a batch, and its best_path reads the CTC.
        waves = [torch.from_numpy(speech) for speech in utterances]
        lengths = torch.tensor([len(wave) for wave in waves])
        speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        encoded, lengths = model.encode(speech.to(device), lengths.to(device))
        best = model.ctc.argmax(encoded).tolist()
        return [
            Recognized(
                [i for i, _ in groupby(ids[:length]) if i != model.blank_id], None
            )
            for ids, length in zip(best, lengths.tolist())
        ]

    chosen = greedy if spec["batches"] == "greedy" else search

    def recognize(utterances: Sequence[np.ndarray]) -> list[Recognized]:
        half = torch.autocast(device, torch.float16) if spec.get("autocast") else None
        with half or contextlib.nullcontext():
            return chosen(utterances)

    def allocated_mb() -> float | None:
        return None if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20

    return System(recognize, allocated_mb)


def measure(system: System, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Recognize the utterances of a file and return the fields of a BatchDecode."""
    utterances = [arrays[name] for name in arrays]
    start = time.perf_counter()
    results = system.recognize(utterances)
    return {
        "seconds": time.perf_counter() - start,
        "parts": {},
        "tokens": [one.tokens for one in results],
        "scores": [one.score for one in results],
        "allocated_mb": system.allocated_mb(),
    }
