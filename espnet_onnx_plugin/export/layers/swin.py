"""Shifted-window transformers of USES2, over (frames, channels, frequencies, features).

ESPnet works out on which side of a shifted edge something stands in Python, for the
sizes that it meets; here it is part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad


def padded(x: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """With zeros behind, to whole windows.

    Args:
        x: (frames, channels, frequencies, features).
        window: frequencies and frames of one.
    """
    frequencies, frames = window
    more = (-x.size(2) % frequencies, -x.size(0) % frames)
    return pad(x, (0, 0, 0, more[0], 0, 0, 0, more[1]))


def _side(size: int, window: int, shift: int) -> torch.Tensor:
    """Side of the edges of a shifted axis each place is on, (size,)."""
    place = torch.arange(size)
    if not shift:
        return torch.zeros_like(place)
    return (place >= size - window).long() + (place >= size - shift).long()


class SwinBlock(torch.nn.Module):
    """One block, with or without a shift.

    Args:
        block: ``espnet2.enh.layers.swin_transformer.SwinTransformerBlock``.
    """

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.window, self.shift = block.window_size, block.shift_size
        attention = block.attn
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale = attention.num_heads, attention.scale
        index = attention.relative_position_index
        bias = attention.relative_position_bias_table.detach()[index.flatten()]
        bias = bias.unflatten(0, index.shape).permute(2, 0, 1)
        self.register_buffer("bias", bias.contiguous())  # (heads, places, places)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Whole windows (frames, channels, frequencies, features), as they come."""
        x = x + self._attended(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        frames, channels, frequencies, features = x.shape
        high, wide = self.window
        if any(self.shift):
            back = tuple(-shift for shift in self.shift)
            x = torch.roll(x, shifts=back, dims=(2, 0))
        count = (frequencies // high, frames // wide)
        x = x.unflatten(2, (count[0], high)).unflatten(0, (count[1], wide))
        # (channels, windows of frequencies, of frames, places, features)
        x = x.permute(2, 3, 0, 4, 1, 5).flatten(3, 4)
        read = self.qkv(x).unflatten(4, (3, self.heads, -1))
        query, key, value = read.permute(4, 0, 1, 2, 5, 3, 6).unbind()
        weight = query * self.scale @ key.transpose(4, 5) + self.bias
        if any(self.shift):
            weight = weight + self._mask(frequencies, frames)
        mixed = torch.softmax(weight, dim=5) @ value
        x = self.proj(mixed.transpose(3, 4).flatten(4))
        x = x.unflatten(3, (high, wide)).permute(2, 4, 0, 1, 3, 5)
        x = x.flatten(3, 4).flatten(0, 1)
        return torch.roll(x, self.shift, (2, 0)) if any(self.shift) else x

    def _mask(self, frequencies: int, frames: int) -> torch.Tensor:
        """(windows of frequencies, of frames, 1, places, places): -100 across edges."""
        (high, wide), (down, right) = self.window, self.shift
        rows = _side(frequencies, high, down).unflatten(0, (frequencies // high, high))
        columns = _side(frames, wide, right).unflatten(0, (frames // wide, wide))
        side = 3 * rows[:, None, :, None] + columns[None, :, None, :]
        side = side.flatten(2)
        across = side[..., None, :] != side[..., None]
        return (across * -100.0)[:, :, None]


class SwinLayer(torch.nn.Sequential):
    """Several blocks, with what is needed to make whole windows.

    Args:
        layers: ``espnet2.enh.layers.swin_transformer.BasicLayer``.
        window: frequencies and frames of one.
    """

    def __init__(self, layers: Sequence[torch.nn.Module], window: Sequence[int]):
        super().__init__(*(SwinBlock(b) for layer in layers for b in layer.blocks))
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, channels, frequencies, features), as it comes."""
        frames, frequencies = x.size(0), x.size(2)
        y = super().forward(padded(x, self.window))
        return y.narrow(0, 0, frames).narrow(2, 0, frequencies)
