"""``lm: seq_rnn``: LSTM, GRU and plain RNN."""

from typing import Tuple

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import StepModule


class SeqRNNLMStep(StepModule):
    """``espnet2.lm.seq_rnn_lm.SequentialRNNLM``, one token."""

    def __init__(self, lm: torch.nn.Module):
        super().__init__(lm)
        names = ("h", "c") if isinstance(lm.rnn, torch.nn.LSTM) else ("h",)
        axes = ("rows", lm.nlayers, lm.nhid)
        self.states = {name: State("float32", axes) for name in names}

    def forward(
        self, tokens: torch.Tensor, parents: torch.Tensor, *tensors: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        """See :class:`StepModule`."""
        parents = parents.flatten()
        # torch's recurrent layers keep layers first.
        past = tuple(s.index_select(0, parents).transpose(0, 1) for s in tensors)
        hidden = past if len(past) == 2 else past[0]
        logits, hidden = self.reference(tokens.flatten()[:, None], hidden)
        new = hidden if len(past) == 2 else (hidden,)
        scores = torch.log_softmax(logits[:, 0], dim=-1)
        return (scores, *(s.transpose(0, 1) for s in new))


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
