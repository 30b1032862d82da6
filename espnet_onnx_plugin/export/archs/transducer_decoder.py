"""``decoder: transducer``: LSTM or GRU that predicts from the labels alone."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.layers.recurrent import CELLS, step
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.transducers import PredictionModule


class RNNPrediction(PredictionModule):
    """``espnet2.asr.decoder.transducer_decoder.TransducerDecoder``."""

    def __init__(self, decoder: torch.nn.Module, projection: torch.nn.Linear):
        super().__init__(decoder, projection)
        self.cell = CELLS[decoder.dtype.upper()]
        state = State("float32", ("rows", decoder.dlayers, decoder.dunits))
        names = ("h", "c") if decoder.dtype == "lstm" else ("h",)
        self.states = dict.fromkeys(names, state)

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Output of the last layer, and the state of every layer."""
        x = self.reference.embed(tokens)
        layers = [layer.all_weights[0] for layer in self.reference.decoder]
        return step(self.cell, layers, x, states)


register(
    Arch(
        role="decoder",
        name="transducer",
        wrap=RNNPrediction,
        tiny={
            "lstm": dict(hidden_size=7),
            "gru_layers": dict(rnn_type="gru", num_layers=2, hidden_size=6),
        },
    )
)
