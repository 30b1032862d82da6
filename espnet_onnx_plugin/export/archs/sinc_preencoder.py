"""``preencoder: sinc``: convolutions with learned band passes on raw audio."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.registry import Arch, register


def _over_frames(layer: torch.nn.Module) -> torch.nn.Module:
    """A layer over (B, channels, samples) as one over (B, channels, frames, samples).

    A window is a row of an image then, and all windows of a batch are one.
    """
    if isinstance(layer, torch.nn.Conv1d):
        new = torch.nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            (1, *layer.kernel_size),
            (1, *layer.stride),
            groups=layer.groups,
        )
        new.weight.data, new.bias.data = layer.weight.data[:, :, None], layer.bias.data
        return new
    if isinstance(layer, torch.nn.BatchNorm1d):
        new = torch.nn.BatchNorm2d(layer.num_features, layer.eps)
        new.load_state_dict(layer.state_dict())
        return new
    if isinstance(layer, torch.nn.AvgPool1d):
        return torch.nn.AvgPool2d((1, *layer.kernel_size))
    if "Dropout" in type(layer).__name__:
        return torch.nn.Identity()
    return layer  # element by element


def _fixed(conv: torch.nn.Module) -> torch.nn.Conv1d:
    """``espnet2.layers.sinc_conv.SincConv``, its filters computed once."""
    with torch.no_grad():
        conv._create_filters("cpu")
    filters = conv.sinc_filters.detach()
    groups, width = conv.in_channels, filters.size(2)
    new = torch.nn.Conv1d(groups, len(filters), width, conv.stride, groups=groups)
    new.weight.data, new.bias.data = filters, torch.zeros(len(filters))
    return new


class SincPreencoder(torch.nn.Module):
    """``espnet2.asr.preencoder.sinc.LightweightSincConvs``."""

    def __init__(self, preencoder: torch.nn.Module):
        super().__init__()
        _, *layers = [layer for block in preencoder.blocks for layer in block]
        layers = [_fixed(preencoder.filters), *layers]
        self.layers = torch.nn.Sequential(*map(_over_frames, layers))

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, frames, channels, samples), (B,) -> (B, frames, dim), (B,)."""
        return self.layers(x.transpose(1, 2)).transpose(1, 2).flatten(2), lengths


register(
    Arch(
        role="preencoder",
        name="sinc",
        wrap=SincPreencoder,
        tiny={
            "bark": dict(
                fs=8000,
                out_channels=128,
                scale_type="bark",
                windowing_type="none",
                activation_type="relu",
                dropout_type="spatial",
            ),
        },
        limits="with frontend sliding_window",
    )
)
