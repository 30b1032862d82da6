"""Models of the task tts, and of gan_tts, whose models decode as those of tts do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle.search import Features
from espnet_onnx_plugin.export.layers.variances import teacher_forcing
from espnet_onnx_plugin.export.tasks.synthesis import SynthesisExporter
from espnet_onnx_plugin.export.tts_module import TTSModule
from espnet_onnx_plugin.runtime.synthesis.inputs import Arguments


class TTSExporter(SynthesisExporter):
    """The modules of a trained text-to-speech model and of its vocoder.

    Args, raises: as of the base class.
    """

    role = "tts"
    griffin_lim = True

    def check_options(self) -> Mapping[str, Any]:
        """Few frames: a model with random weights need not end."""
        return dict(maxlenratio=2.5)

    def espnet_task(self, config: Mapping[str, Any]) -> type:
        """ESPnet's task."""
        from espnet2.tasks.tts import TTSTask

        return TTSTask

    def teacher_forcing(self) -> tuple[dict[str, TTSModule], Features]:
        """Energy as a graph, and pitch."""
        return teacher_forcing(self.model, self.wrapped.search)

    @torch.no_grad()
    def teacher(self, inputs: Arguments) -> Arguments:
        """Made-up speech of a text, and its durations where they are read."""
        random = np.random.default_rng(len(inputs["text"]))
        symbols = len(inputs["text"]) + 1
        if "frontend" not in self.modules:
            shape = (6 * symbols, self.voice.odim)
            return {"speech": random.standard_normal(shape).astype(np.float32)}
        shift = self.modules["frontend"].stft.hop_length
        samples = self.speech.min_length + 6 * symbols * shift
        made = {"speech": self.made_up_voice(samples, symbols)}
        if "durations" in self.search.teacher_forcing:
            frames = len(self.modules["frontend"](torch.from_numpy(made["speech"])))
            factor = getattr(self.model.pitch_extract, "reduction_factor", 1)
            shares = np.full(symbols, 1 / symbols)
            made["durations"] = random.multinomial(frames // factor, shares)
        return made
