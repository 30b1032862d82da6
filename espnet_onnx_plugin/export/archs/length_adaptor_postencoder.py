"""``postencoder: length_adaptor``: fewer frames by strided convolutions."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.registry import Arch, register


class LengthAdaptor(torch.nn.Module):
    """ESPnet's ``LengthAdaptorPostEncoder`` with lengths in integers.

    Windows do not overlap, so that a frame is made of padding or counts, never both.
    """

    def __init__(self, postencoder: torch.nn.Module):
        super().__init__()
        self.reference = postencoder

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return self.reference.output_size()

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, dim), (B,) -> (B, T / 2^layers, size), (B,)."""
        reference = self.reference
        if reference.embed is not None:
            x = reference.embed(x)
        x = reference.length_adaptor(x.transpose(1, 2)).transpose(1, 2)
        ratio = reference.length_adaptor_ratio
        return x, torch.div(lengths, ratio, rounding_mode="floor")


register(
    Arch(
        role="postencoder",
        name="length_adaptor",
        wrap=LengthAdaptor,
        tiny={
            "linear": dict(
                length_adaptor_n_layers=2, input_layer="linear", output_size=10
            )
        },
    )
)
