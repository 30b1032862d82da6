"""Blocks of the stand-alone transducer's encoder: ``espnet2.asr_transducer.encoder``.

Between ESPnet's blocks goes a mask; between these go the lengths, of which each makes
its mask anew: that of release 202511 is not shortened where the frames are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.patches import replaced

#: Frames (B, T, size), encoded positions (1, 2 * T - 1, size), lengths (B,).
Sequences = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: The same of a chunk, whose frames are all there, and states for the next chunk.
Chunks = tuple[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]]


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
    """A block with attention, which keeps the number of frames.

    Attributes:
        streams: whether it can encode a stream.
    """

    streams = True

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block

    @property
    def states(self) -> dict[str, State]:
        """States of a stream: frames that attention and convolutions look back to.

        Those of a convolution that also looks ahead are none: it sees a chunk alone.
        """
        self.block.reset_streaming_cache(0, torch.device("cpu"))
        attention, *convolutions = self.block.cache
        self.block.cache = None
        states = {"attention": State("float32", ("streams", "left", attention.size(2)))}
        if self.block.conv_mod.lorder:
            for name, cache in zip(("convolution", "merge"), convolutions):
                states[name] = State("float32", ("streams", *cache.shape[1:]))
        return states

    def chunk(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        states: Sequence[torch.Tensor],
    ) -> Chunks:
        """Encode a chunk of each of several streams.

        Args:
            x: (B, T, size).
            positions: (1, left + 2 * T - 1, size) of every distance.
            mask: (B, left + T), true at frames that there are not.
            states: as :attr:`states` names them.
        """
        block, left = self.block, states[0].size(1)
        shifts = replaced(type(block.self_att), "rel_shift", shift_positions)
        with shifts, replaced(block, "cache", [*states, None, None]):
            x, positions = block.chunk_forward(x, positions, mask, left_context=left)
            return x, positions, block.cache[: len(states)]

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
    ) -> Sequences:
        """Encode a batch."""
        mask = make_pad_mask(lengths, x[..., 0])
        with replaced(type(self.block.self_att), "rel_shift", shift_positions):
            x, _, positions = self.block(x, positions, mask)
        return x, positions, lengths
