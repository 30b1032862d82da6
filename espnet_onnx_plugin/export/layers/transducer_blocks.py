"""Blocks of the stand-alone transducer's encoder: ``espnet2.asr_transducer.encoder``.

Between ESPnet's blocks goes a mask; between these go the lengths, of which each makes
its mask anew: that of release 202511 is not shortened where the frames are.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.patches import replaced

#: Frames (B, T, size), encoded positions (1, 2 * T - 1, size), lengths (B,).
Sequences = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def shift_positions(
    attention: torch.nn.Module, x: torch.Tensor, left_context: int = 0
) -> torch.Tensor:
    """Transformer-XL's shift of relative positions, ESPnet's ``rel_shift``.

    ESPnet's takes a view by strides, which no graph has.

    Args:
        attention: unused; ESPnet's is a method.
        x: (B, H, time, time + seen - 1), of every distance.
        left_context: frames before the first one, by which more are seen.

    Returns:
        (B, H, time, seen).
    """
    zeros = torch.zeros((*x.size()[:3], 1), dtype=x.dtype)
    shifted = torch.cat([zeros, x], dim=-1)
    shifted = shifted.view(*x.size()[:2], x.size(3) + 1, x.size(2))
    return shifted[:, :, 1:].view_as(x)[..., : x.size(2) + left_context]


class AttentionBlock(torch.nn.Module):
    """A block with attention, which keeps the number of frames."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
    ) -> Sequences:
        """Encode a batch."""
        mask = make_pad_mask(lengths, x[..., 0])
        with replaced(type(self.block.self_att), "rel_shift", shift_positions):
            x, _, positions = self.block(x, positions, mask)
        return x, positions, lengths
