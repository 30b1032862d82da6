"""``lm: seq_rnn``: LSTM, GRU and plain RNN."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.recurrent import RecurrentStep
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import RECURRENT_INPUTS, StepModule


class SeqRNNLMStep(StepModule):
    """``espnet2.lm.seq_rnn_lm.SequentialRNNLM``, one token."""

    def __init__(self, lm: torch.nn.Module):
        super().__init__(lm, RECURRENT_INPUTS)
        self.step = RecurrentStep(lm.rnn)
        self.states = self.step.states

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        lm = self.reference
        (tokens, parents), _, states = self.split(tensors)
        past = [state.index_select(0, parents.flatten()) for state in states]
        x, *states = self.step(lm.encoder(tokens.flatten()), past)
        return (torch.log_softmax(lm.decoder(x), dim=-1), *states)


register(
    Arch(
        role="lm",
        name="seq_rnn",
        wrap=SeqRNNLMStep,
        tiny={
            "lstm": dict(unit=8, nhid=10, nlayers=2),
            "gru": dict(unit=8, nlayers=2, rnn_type="gru"),
            "rnn_tanh": dict(unit=8, nlayers=2, rnn_type="rnn_tanh"),
            "rnn_relu": dict(unit=8, nlayers=1, rnn_type="rnn_relu", tie_weights=True),
        },
    )
)
