"""``encoder: contextual_block_transformer``, on whole utterances."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.padding import convolutions_see, subsampled
from espnet_onnx_plugin.export.registry import Arch, register


class ContextualBlockEncoder(torch.nn.Module):
    """ESPnet's contextual block encoders as ``asr_inference`` calls them.

    "Transformer ASR with contextual block processing" (Tsunoo et al.,
    https://arxiv.org/abs/1910.07204): overlapping blocks of frames, each with the
    context of the block before in front and a place for its own context behind. ESPnet
    (``forward_train``) fills the blocks in a loop, and encodes an utterance that is no
    longer than a block without contexts. Here an index of frames fills all blocks at
    once, and the masks make a short utterance out of a block, so that any lengths share
    one graph and one batch.
    """

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        refuse_token_ids(encoder)
        if not encoder.init_average:
            raise PluginError(
                "contextual block encoder with init_average: false is not supported: "
                "ESPnet itself fails on it"
            )
        self.encoder = encoder
        #: Feature frames of three blocks, see ``EncoderGraph.trace_frames``.
        self.trace_frames = encoder.subsample * (
            encoder.block_size + 2 * encoder.hop_size + 1
        )

    def output_size(self) -> int:
        """Size of the output."""
        return self.encoder.output_size()

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(B, T, input size), (B,) -> (B, T', output size), (B,), None."""
        encoder = self.encoder
        embed = encoder.embed
        if isinstance(getattr(embed, "conv", None), torch.nn.Sequential):
            x, _ = embed(x, None)
            lengths = subsampled(lengths, embed.conv)
        elif embed is not None:
            x = embed(x)
        frames = x.size(1)
        size = encoder.block_size or frames  # 0: one block as long as the utterance
        hop = encoder.hop_size
        first = torch.arange(1 + torch.sym_max(0, frames - size + hop - 1) // hop) * hop
        index = first[:, None] + torch.arange(size)  # (blocks, size)
        valid = index < lengths[:, None, None]  # (B, blocks, size)
        index = index.clamp(max=frames - 1)

        blocks = x[:, index] * valid[..., None]
        count = valid.sum(dim=-1, keepdim=True).clamp(min=1)
        own = blocks.sum(dim=2) / count  # (B, blocks, size of a frame)
        if encoder.ctx_pos_enc:
            own = encoder.pos_enc(own)
        blocks = encoder.pos_enc(x)[:, index] * valid[..., None]
        before = torch.cat((own[:, :1], own[:, :-1]), dim=1)
        x = torch.cat((before[:, :, None], blocks, own[:, :, None]), dim=2)

        short = (lengths <= size)[:, None, None].expand(-1, first.size(0), -1)
        x = self._encode(x, valid, short)
        if encoder.normalize_before:
            x = encoder.after_norm(x)
        return self._join(x, lengths, frames, size), lengths, None

    def _encode(
        self, x: torch.Tensor, valid: torch.Tensor, short: torch.Tensor
    ) -> torch.Tensor:
        """The layers; before each a block's context moves to the front of the next.

        Args:
            x: (B, blocks, size + 2, dim)
            valid: (B, blocks, size) whether a place holds a frame.
            short: (B, blocks, 1) whether the utterance is encoded without contexts.
        """
        batch, layers = x.size(0), self.encoder.encoders
        x, short = x.flatten(0, 1), short.flatten(0, 1)[:, None]  # (B * blocks, ...)
        frame = torch.nn.functional.pad(valid, (1, 1), value=False)
        frame = frame.flatten(0, 1)[:, None]
        place = torch.arange(x.size(1))
        # A long utterance's last block attends to the places without a frame, too.
        seen = frame | (~short & (place < x.size(1) - 1))
        alone = ~short & (place == 0)[:, None]
        with contextlib.ExitStack() as stack:
            stack.enter_context(convolutions_see(layers, lambda: frame | ~short))
            for i, layer in enumerate(layers):
                stack.enter_context(_attends_to_nothing(layer.self_attn, alone))
                if i:
                    x = x.unflatten(0, (batch, -1))
                    own = x[:, :, -1:]
                    before = torch.cat((own[:, :1], own[:, :-1]), dim=1)
                    x = torch.cat((before, x[:, :, 1:]), dim=2).flatten(0, 1)
                x = layer(x, seen)[0]
        return x.unflatten(0, (batch, -1))

    def _join(
        self, x: torch.Tensor, lengths: torch.Tensor, frames: Any, size: Any
    ) -> torch.Tensor:
        """Each frame from the block in which it has ``look_ahead`` frames behind it.

        (B, blocks, size + 2, dim) -> (B, frames, dim)
        """
        hop = self.encoder.hop_size
        time = torch.arange(frames)
        start = self.encoder.block_size - self.encoder.look_ahead - hop
        last = (lengths - size + hop - 1).clamp(min=0) // hop
        block = ((time - start) // hop).clamp(min=0)
        block = torch.minimum(block[None], last[:, None])
        place = (time - block * hop + 1).clamp(max=x.size(2) - 1)
        batch = torch.arange(x.size(0))[:, None]
        return x[batch, block, place]


@contextlib.contextmanager
def _attends_to_nothing(
    attention: torch.nn.Module, places: torch.Tensor
) -> Iterator[None]:
    """Leave an attention's bias alone at some places, for the time of the block.

    It is what ESPnet's mask leaves of the context in front of a block, and convolutions
    see it. As a mask of keys alone, which the other places need, it would not fuse.
    """

    def clear(module, args, output):
        return torch.where(places, module.linear_out.bias, output)

    handle = attention.register_forward_hook(clear)
    try:
        yield
    finally:
        handle.remove()


_TINY = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    block_size=8,
    hop_size=3,
    look_ahead=2,
)

register(
    Arch(
        role="encoder",
        name="contextual_block_transformer",
        wrap=ContextualBlockEncoder,
        tiny={
            "conv2d": _TINY,
            "one_block": dict(_TINY, block_size=0, input_layer="conv2d6"),
            "linear": dict(
                _TINY,
                ctx_pos_enc=False,
                input_layer="linear",
                normalize_before=False,
                concat_after=True,
                positionwise_layer_type="conv1d",
                positionwise_conv_kernel_size=3,
            ),
        },
        limits="whole utterances; input_layer embed is for token ids",
    )
)
