"""``attractor: rnn``: speakers as what an LSTM makes of what another one has read."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.registry import Arch, register


class RnnAttractor(torch.nn.Module):
    """``espnet2.diar.attractor.rnn_attractor.RnnAttractor``, over one recording.

    Attributes:
        size: of an attractor.
    """

    def __init__(self, attractor: torch.nn.Module):
        super().__init__()
        self.reader, self.speakers = (
            torch.nn.ModuleList(RecurrentLayer(rnn, i) for i in range(rnn.num_layers))
            for rnn in (attractor.attractor_encoder, attractor.attractor_decoder)
        )
        self.projection = attractor.linear_projection
        self.size: int = attractor.attractor_decoder.hidden_size

    def forward(
        self, encoder_out: torch.Tensor, dec_input: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attractors (attractors, size), and logits (attractors,) that there is one.

        Args:
            encoder_out: (frames, size).
            dec_input: zeros (attractors, size).
        """
        x, y = encoder_out[:, None], dec_input[:, None]
        for reader, speakers in zip(self.reader, self.speakers, strict=True):
            x, *states = reader.sequences(x)
            y, *_ = speakers.sequences(y, states)
        return y[:, 0], self.projection(y)[:, 0, 0]


register(
    Arch(
        role="attractor",
        name="rnn",
        wrap=RnnAttractor,
        tiny={"one": dict(unit=8), "two": dict(unit=8, layer=2, attractor_grad=False)},
    )
)
