"""Dual-path networks: layers within segments and across them, in turns.

Luo et al., "Dual-path RNN", ICASSP 2020. A sequence (frames, dim) is cut into segments
that overlap by half: (time, segments, dim), the first axis within a segment.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.functional import embedding, pad


def cut(x: torch.Tensor, starts: torch.Tensor, size: int) -> torch.Tensor:
    """Segments (size, segments, dim) of x (frames, dim) from these frames on."""
    return embedding(starts + torch.arange(size)[:, None], x)


def split(x: torch.Tensor, size: int) -> torch.Tensor:
    """Segments as ``espnet2.enh.layers.dprnn.split_feature`` cuts them.

    Half a segment of zeros comes first; every second segment begins half a segment
    after the one before. Behind the last frame there are always some zeros.

    Args:
        x: (frames, dim).
        size: frames of a segment; half of an odd size is rounded down.

    Returns:
        (size, segments, dim).
    """
    half = size // 2
    pairs = (x.size(0) + half) // size + 1
    x = pad(x, (0, 0, half, pairs * size - x.size(0)))
    starts = torch.arange(pairs)[:, None] * size + torch.tensor([0, half])
    return cut(x, starts.flatten(), size)


def merge(segments: torch.Tensor, frames: int | torch.SymInt) -> torch.Tensor:
    """Sum (frames, dim) of segments (size, segments, dim), inverse to :func:`split`.

    As ``espnet2.enh.layers.dprnn.merge_feature``.
    """
    size, number, dim = segments.shape
    pairs = segments.transpose(0, 1).reshape(number // 2, 2, size, dim)
    even, odd = (pairs[:, i].flatten(0, 1) for i in range(2))
    return even[size // 2 :][:frames] + odd[:frames]


class DualPath(torch.nn.Module):
    """Blocks of two layers, each mapping (time, sequences, dim) to that shape.

    Args:
        within, across: the layers of each block: over the time of segments, and over
            segments.
    """

    def __init__(
        self, within: Iterable[torch.nn.Module], across: Iterable[torch.nn.Module]
    ):
        super().__init__()
        self.within = torch.nn.ModuleList(within)
        self.across = torch.nn.ModuleList(across)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over segments (time, segments, dim)."""
        for within, across in zip(self.within, self.across, strict=True):
            x = within(x)
            x = across(x.transpose(0, 1)).transpose(0, 1)
        return x
