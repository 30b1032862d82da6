"""``decoder: rnn`` of a stand-alone transducer: LSTM or GRU."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.recurrent import RecurrentStep
from espnet_onnx_plugin.export.layers.stand_alone_prediction import (
    StandAlonePrediction,
)
from espnet_onnx_plugin.export.registry import Arch, register


class RNNPrediction(StandAlonePrediction):
    """``espnet2.asr_transducer.decoder.rnn_decoder.RNNDecoder``."""

    def __init__(self, decoder: torch.nn.Module, projection: torch.nn.Linear):
        super().__init__(decoder, projection)
        self.step = RecurrentStep(*decoder.rnn)
        self.states = self.step.states

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Output of the last layer, and the state of every layer."""
        return self.step(self.reference.embed(tokens), states)


register(
    Arch(
        role="transducer_decoder",
        name="rnn",
        wrap=RNNPrediction,
        tiny={
            "lstm": dict(embed_size=6, hidden_size=8),
            "gru_layers": dict(
                rnn_type="gru", num_layers=2, embed_size=6, hidden_size=8
            ),
        },
    )
)
