"""``decoder: transducer``: LSTM or GRU that predicts from the labels alone."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.layers.recurrent import CELLS
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
        layers = []
        for i, layer in enumerate(self.reference.decoder):
            past = [state[:, i] for state in states]
            new = self.cell(
                linear(x, layer.weight_ih_l0, layer.bias_ih_l0),
                linear(past[0], layer.weight_hh_l0, layer.bias_hh_l0),
                *past,
            )
            layers.append(new)
            x = new[0]
        return (x, *(torch.stack(state, dim=1) for state in zip(*layers)))


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
