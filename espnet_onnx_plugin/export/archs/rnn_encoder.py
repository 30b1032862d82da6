"""``encoder: rnn``: LSTM or GRU, with projections and subsampling."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register


class _Layer(torch.nn.Module):
    """A recurrent layer and what follows it: every n-th frame, projected."""

    def __init__(
        self,
        rnn: RecurrentLayer,
        projection: torch.nn.Linear | None = None,
        activation: bool = False,
        subsample: int = 1,
    ):
        super().__init__()
        if subsample not in (1, 2):
            raise PluginError(
                f"encoder with subsample {subsample} is not supported, only 1 and 2: "
                "ESPnet's own frames and lengths then differ"
            )
        self.rnn = rnn
        self.projection = projection
        self.activation = activation
        self.subsample = subsample

    def forward(self, x, lengths):
        x = self.rnn(x, lengths)
        if self.subsample > 1:
            x = x[:, :: self.subsample]
            lengths = (lengths + 1) // self.subsample
        if self.projection is not None:
            x = self.projection(x)
        return torch.tanh(x) if self.activation else x, lengths


def recurrent_layers(stack: torch.nn.Module) -> torch.nn.ModuleList:
    """The layers of ESPnet's ``RNNP`` (projects each layer) or ``RNN`` (the last)."""
    if hasattr(stack, "nbrnn"):
        last = stack.nbrnn.num_layers - 1
        layers = [_Layer(RecurrentLayer(stack.nbrnn, i)) for i in range(last)]
        rnn = RecurrentLayer(stack.nbrnn, last)
        return torch.nn.ModuleList([*layers, _Layer(rnn, stack.l_last, True)])
    name = "birnn" if stack.bidir else "rnn"
    return torch.nn.ModuleList(
        _Layer(
            RecurrentLayer(getattr(stack, f"{name}{i}")),
            getattr(stack, f"bt{i}"),
            i < stack.elayers - 1,
            int(stack.subsample[i + 1]),
        )
        for i in range(stack.elayers)
    )


class RNNEncoder(torch.nn.Module):
    """``espnet2.asr.encoder.rnn_encoder.RNNEncoder``."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.output_size = encoder.output_size
        self.layers = recurrent_layers(encoder.enc[-1])

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode (batch, frames, dim), as ESPnet's encoder; there is no state."""
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        return x.masked_fill(make_pad_mask(lengths, x, 1), 0.0), lengths, None


register(
    Arch(
        role="encoder",
        name="rnn",
        wrap=RNNEncoder,
        tiny={
            "lstm_projections": dict(hidden_size=6, output_size=8, num_layers=3),
            "gru_one_direction": dict(
                rnn_type="gru",
                bidirectional=False,
                hidden_size=6,
                output_size=8,
                num_layers=2,
                subsample=[1, 2],
            ),
            "gru": dict(
                rnn_type="gru",
                use_projection=False,
                hidden_size=6,
                output_size=8,
                num_layers=2,
            ),
        },
        limits="subsample 1 and 2",
    )
)
