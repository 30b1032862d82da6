"""DPTNet's improved transformer layer, over sequences along the first axis."""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm, linear

from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer


class _Norm(torch.nn.Module):
    """One of ``espnet2.enh.layers.tcn.choose_norm``.

    Args:
        norm: ESPnet's.
    """

    def __init__(self, norm: torch.nn.Module):
        super().__init__()
        self.over, self.eps = "nothing", torch.finfo(torch.float32).eps
        if isinstance(norm, torch.nn.BatchNorm1d):
            weight = norm.weight / (norm.running_var + norm.eps).sqrt()
            bias = norm.bias - norm.running_mean * weight
        elif isinstance(norm, torch.nn.GroupNorm):
            self.over, self.eps = "sequence", norm.eps
            weight, bias = norm.weight, norm.bias
        else:
            by_sequence = type(norm).__name__ == "GlobalLayerNorm"
            self.over = "sequence" if by_sequence else "channels"
            weight, bias = norm.gamma.flatten(), norm.beta.flatten()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(time, batch, channels), as it comes."""
        if self.over == "channels":
            return layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        if self.over == "sequence":
            x = x - x.mean(dim=(0, 2), keepdim=True)
            x = x / (x.square().mean(dim=(0, 2), keepdim=True) + self.eps).sqrt()
        return x * self.weight + self.bias


class ImprovedTransformer(torch.nn.Module):
    """Attention, then a recurrent layer in the place of the first linear one.

    Args:
        layer: ``espnet2.enh.layers.dptnet.ImprovedTransformerLayer``.
    """

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.attention, self.feed_forward = layer.self_attn, layer.feed_forward
        self.rnn = RecurrentLayer(layer.rnn)
        self.norms = torch.nn.ModuleList((_Norm(layer.norm_attn), _Norm(layer.norm_ff)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(time, batch, channels), as it comes."""
        x = self.norms[0](self._attended(x) + x)
        return self.norms[1](self.feed_forward(self.rnn.sequences(x)[0]) + x)

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        attention, heads = self.attention, self.attention.num_heads
        read = linear(x, attention.in_proj_weight, attention.in_proj_bias)
        read = read.unflatten(2, (3, heads, -1))
        query, key, value = read.permute(2, 1, 3, 0, 4).unbind()  # (batch, heads, time)
        weight = torch.softmax(
            query * attention.head_dim**-0.5 @ key.transpose(2, 3), dim=3
        )
        mixed = (weight @ value).permute(2, 0, 1, 3).flatten(2)
        return attention.out_proj(mixed)
