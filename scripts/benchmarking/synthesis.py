"""A worker's systems of tasks tts and svs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from benchmarking.config import sings
from benchmarking.recognition import on_device, torch_device
from benchmarking.settings import Synthesis
from benchmarking.stopwatch import Stopwatch

#: Of the noise of every utterance.
SEED = 777


class Synthesizer(NamedTuple):
    """A system.

    Attributes:
        fs: Sampling rate.
        seed: Makes the next call draw what every system draws.
        synthesize: From token ids, or a song, to a waveform (samples,).
        seconds: Of the newest call, by part.
        first_audio: Seconds from these to the first audio, which is made again for
            that; None where it is the whole.
    """

    fs: int
    seed: Callable[[], object]
    synthesize: Callable[[Any], np.ndarray]
    seconds: Callable[[], dict[str, float]]
    first_audio: Callable[[Any], float] | None = None


def open_bundle(spec: dict[str, Any]) -> Synthesizer:
    """Open a bundle; neither torch, nor ESPnet, nor onnx."""
    from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
    from espnet_onnx_plugin.tasks import find

    cls = find(spec["task"]).door.load()
    model = cls(spec["model"], **on_device(spec), **spec["options"])
    return Synthesizer(
        model.fs,
        lambda: setattr(model, "noise", Noise(SEED, mkl=spec["mkl"])),
        lambda text: model(text)["wav"],
        lambda: model.seconds,
        model.first_audio_seconds,
    )


def open_pytorch(spec: dict[str, Any]) -> Synthesizer:
    """Load ESPnet's own inference."""
    import torch

    device = torch_device(spec)
    if sings(spec["task"]):
        from espnet2.bin.svs_inference import SingingGenerate as cls
    else:
        from espnet2.bin.tts_inference import Text2Speech as cls
    model = cls(**spec["model"], **spec["options"], device=device)
    network = model.svs if sings(spec["task"]) else model.tts
    watch = Stopwatch(None if device == "cpu" else torch.cuda.synchronize)
    fs = model.fs
    watch.watch("acoustic", model.model, "inference")
    if model.vocoder is None:  # the innermost of those that make samples of frames
        inner = [m for m in network.modules() if hasattr(m, "upsample_factor")]
        watch.watch("vocoder", inner[-1], "forward")
    elif isinstance(model.vocoder, torch.nn.Module):
        watch.watch("vocoder", model.vocoder, "forward")
    else:  # Griffin-Lim
        watch.watch("vocoder", model, "vocoder")

    def synthesize(text: Any) -> np.ndarray:
        watch.seconds.clear()
        return model(text)["wav"].view(-1).cpu().numpy()

    def seed() -> None:
        torch.manual_seed(SEED)

    return Synthesizer(fs, seed, synthesize, lambda: dict(watch.seconds))


def measure(synthesizer: Synthesizer, text: Any) -> dict[str, Any]:
    """Return the fields of a Synthesis of one utterance, and its waveform."""
    synthesizer.seed()
    start = time.perf_counter()
    wav = synthesizer.synthesize(text)
    total = time.perf_counter() - start
    seconds, first = synthesizer.seconds(), total
    if synthesizer.first_audio is not None:
        synthesizer.seed()
        first = synthesizer.first_audio(text)
    parts = {name: seconds.get(name, 0.0) for name in Synthesis.PARTS[:-1]}
    return {
        "seconds": total,
        "parts": {**parts, "rest": total - sum(parts.values())},
        "audio_seconds": len(wav) / synthesizer.fs,
        "first_audio_seconds": first,
        "wav": wav,
    }
