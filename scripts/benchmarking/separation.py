"""A worker's systems of task enh."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from benchmarking.recognition import on_device, torch_device
from benchmarking.settings import Separation
from benchmarking.stopwatch import Stopwatch


class Separator(NamedTuple):
    """A system.

    Attributes:
        separate: From a mixture (samples[, channels]) to waveforms (speakers, samples).
        seconds: Of the newest call, by part.
    """

    separate: Callable[[np.ndarray], np.ndarray]
    seconds: Callable[[], dict[str, float]]


def open_bundle(spec: dict[str, Any]) -> Separator:
    """Open a bundle; neither torch, nor ESPnet, nor onnx."""
    if spec["piece"] is not None:
        return _open_streaming_bundle(spec)
    from espnet_onnx_plugin.runtime.enh import SeparateSpeech

    model = SeparateSpeech(spec["model"], **on_device(spec), **spec["options"])
    return Separator(
        lambda mix: np.concatenate(model(mix[None], spec["fs"])),
        lambda: model.seconds,
    )


def _open_streaming_bundle(spec: dict[str, Any]) -> Separator:
    from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming

    model = SeparateSpeechStreaming(spec["model"], **on_device(spec), **spec["options"])

    def separate(mix: np.ndarray) -> np.ndarray:
        stream = model.stream(spec["fs"])
        places = range(spec["piece"], len(mix), spec["piece"])
        made = [stream.feed(piece) for piece in np.split(mix, places)]
        return np.concatenate((*made, stream.finish()), axis=1)

    return Separator(separate, dict)


def open_pytorch(spec: dict[str, Any]) -> Separator:
    """Load ESPnet's own inference."""
    if spec["piece"] is not None:
        return _open_streaming_pytorch(spec)
    import torch
    from espnet2.bin.enh_inference import SeparateSpeech

    device = torch_device(spec)
    model = SeparateSpeech(**spec["model"], **spec["options"], device=device)
    watch = Stopwatch(None if device == "cpu" else torch.cuda.synchronize)
    watch.watch("separator", model.enh_model.separator, "forward")

    def separate(mix: np.ndarray) -> np.ndarray:
        watch.seconds.clear()
        return np.concatenate(model(mix[None], spec["fs"]))

    return Separator(separate, lambda: dict(watch.seconds))


def _open_streaming_pytorch(spec: dict[str, Any]) -> Separator:
    import torch
    from espnet2.bin.enh_inference_streaming import SeparateSpeechStreaming

    device = torch_device(spec)
    model = SeparateSpeechStreaming(**spec["model"], **spec["options"], device=device)

    def separate(mix: np.ndarray) -> np.ndarray:
        mixture = torch.tensor(mix)[None]
        made = [model(frame) for frame in model.frame(mixture)]
        model.reset()
        lengths = torch.tensor([len(mix)])
        waves = [model.merge(list(speaker), lengths) for speaker in zip(*made)]
        return torch.cat(waves).cpu().numpy()

    return Separator(separate, dict)


def measure(separator: Separator, mix: np.ndarray) -> dict[str, Any]:
    """Return the fields of a Separation of one mixture, and its waveforms."""
    start = time.perf_counter()
    waves = separator.separate(mix)
    total = time.perf_counter() - start
    seconds = separator.seconds()
    parts = {name: seconds.get(name, 0.0) for name in Separation.PARTS[:-1]}
    rest = total - sum(parts.values())
    return {"seconds": total, "parts": {**parts, "rest": rest}, "wav": waves}
