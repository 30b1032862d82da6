"""``decoder: transducer``: LSTM or GRU that predicts from the labels alone."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.recurrent import RecurrentStep
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.transducers import PredictionModule


class RNNPrediction(PredictionModule):
    """``espnet2.asr.decoder.transducer_decoder.TransducerDecoder``."""

    def __init__(self, decoder: torch.nn.Module, projection: torch.nn.Linear):
        super().__init__(decoder, projection)
        self.step = RecurrentStep(*decoder.decoder)
        self.states = self.step.states

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Output of the last layer, and the state of every layer."""
        return self.step(self.reference.embed(tokens), states)


register(
    Arch(
        role="decoder",
        name="transducer",
        wrap=RNNPrediction,
        tiny={
            "lstm": dict(hidden_size=7),
            "gru_layers": dict(rnn_type="gru", num_layers=2, hidden_size=6),
        },
        limits="in task st without md_encoder",
    )
)
