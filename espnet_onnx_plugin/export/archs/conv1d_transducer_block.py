"""``block_type: conv1d`` of a stand-alone transducer's encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.layers.transducer_blocks import Chunks, Sequences
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


class Conv1dBlock(torch.nn.Module):
    """A convolution, which leaves fewer frames where it is not causal."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block

    def left(self, lengths: torch.Tensor | int) -> torch.Tensor | int:
        """How many frames are left of so many."""
        conv = self.block.conv
        reach = conv.dilation[0] * (conv.kernel_size[0] - 1)
        return (lengths + self.block.lorder - reach - 1) // conv.stride[0] + 1

    @property
    def streams(self) -> bool:
        """Whether it can encode a stream: it looks back, and keeps every frame.

        Without a chunk's every frame attention behind it fails in ESPnet.
        """
        return self.block.lorder > 0 and self.left(1) == 1

    @property
    def states(self) -> dict[str, State]:
        """States of a stream: the frames that it looks back to."""
        axes = ("streams", self.block.input_size, self.block.lorder)
        return {"convolution": State("float32", axes)}

    def chunk(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        states: Sequence[torch.Tensor],
    ) -> Chunks:
        """Encode a chunk of each of several streams, see :class:`.AttentionBlock`."""
        [before] = states
        with replaced(self.block, "cache", before):
            x, positions = self.block.chunk_forward(x, positions, mask)
            return x, positions, [self.block.cache]

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
    ) -> Sequences:
        """Encode a batch."""
        mask = make_pad_mask(lengths, x[..., 0])
        x, _, positions = self.block(x, positions, mask)
        return x, positions, self.left(lengths)


_CONFORMER = dict(
    block_type="conformer",
    hidden_size=8,
    linear_size=12,
    heads=2,
    conv_mod_kernel_size=3,
)
_BLOCK = dict(block_type="conv1d", output_size=8, kernel_size=3)

register(
    Arch(
        role="transducer_block",
        name="conv1d",
        wrap=Conv1dBlock,
        tiny={
            "before_conformer": dict(
                body_conf=[
                    dict(_BLOCK, batch_norm=True, dilation=2),
                    dict(_BLOCK, relu=False, groups=2, stride=2),
                    _CONFORMER,
                ],
                input_conf=dict(conv_size=4),
            ),
            "causal": dict(
                body_conf=[_BLOCK, dict(_BLOCK, num_blocks=2, bias=False), _CONFORMER],
                input_conf=dict(vgg_like=True, conv_size=[4, 4]),
                main_conf=dict(dynamic_chunk_training=True),
            ),
        },
    )
)
