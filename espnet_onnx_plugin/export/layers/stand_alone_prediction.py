"""Prediction networks of the stand-alone transducer: ``espnet2.asr_transducer``."""

from __future__ import annotations

from typing import Any

import torch

from espnet_onnx_plugin.export.transducers import PredictionModule


class StandAlonePrediction(PredictionModule):
    """A decoder of ``espnet2.asr_transducer.decoder``."""

    def score_reference(self, label: int, state: Any) -> tuple[torch.Tensor, Any]:
        """Output (size,) of ESPnet's module behind a label, and its new state."""
        self.reference.score_cache = {}  # goes by the labels, of which this is the last
        [predicted], state = self.reference.score([label], state)
        return predicted, state
