"""``encoder: contextual_block_transformer``, of whole utterances and of streams."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.padding import convolutions_see, subsampled
from espnet_onnx_plugin.export.registry import Arch, register


class Past(NamedTuple):
    """A batch of streams before the frames that are encoded next.

    Attributes:
        blocks: (B,) int64, how many are encoded.
        is_final: (B,) bool, whether the utterance ends with those frames.
        context: (B, layers, dim) of the newest block, the inputs of the layers.
    """

    blocks: torch.Tensor
    is_final: torch.Tensor
    context: torch.Tensor


class ContextualBlockEncoder(torch.nn.Module):
    """ESPnet's contextual block encoders, of whole utterances and of streams.

    "Transformer ASR with contextual block processing" (Tsunoo et al.,
    https://arxiv.org/abs/1910.07204): overlapping blocks of frames, each with the
    context of the block before in front and a place for its own context behind. ESPnet
    (``forward_train``, ``forward_infer``) fills the blocks in a loop, and encodes an
    utterance that is no longer than a block without contexts. Here an index of frames
    fills all blocks at once, and the masks make a short utterance out of a block, so
    that any lengths share one graph and one batch.
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
        #: Frames behind the input layer that make three blocks.
        self.three_blocks = encoder.block_size + 2 * encoder.hop_size + 1
        #: Feature frames of three blocks, see ``EncoderGraph.trace_frames``.
        self.trace_frames = encoder.subsample * self.three_blocks
        #: Those of the sinusoids, to the last digit: after an hour one digit is a
        #: quarter of a degree.
        self.frequencies: list[float] = torch.exp(
            torch.arange(0, encoder.output_size(), 2, dtype=torch.float32)
            * -(math.log(10000.0) / encoder.output_size())
        ).tolist()

    @property
    def streams(self) -> bool:
        """Whether it can encode a stream, as ESPnet's can.

        Without blocks there is nothing to begin with; without an input layer ESPnet's
        conformer adds positions that begin anew with each chunk.
        """
        encoder = self.encoder
        given = encoder.block_size - encoder.look_ahead
        begins_anew = isinstance(encoder.embed, torch.nn.Sequential) and isinstance(
            encoder.embed[0], type(encoder.pos_enc)
        )
        return 0 < encoder.hop_size <= given <= encoder.block_size and not begins_anew

    def output_size(self) -> int:
        """Size of the output."""
        return self.encoder.output_size()

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(B, T, input size), (B,) -> (B, T', output size), (B,), None."""
        conv = getattr(self.encoder.embed, "conv", None)
        if isinstance(conv, torch.nn.Sequential):
            lengths = subsampled(lengths, conv)
        return self.encode(self.embed(x), lengths)[0], lengths, None

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """The input layer: (B, T, input size) -> (B, T', output size)."""
        embed = self.encoder.embed
        if isinstance(getattr(embed, "conv", None), torch.nn.Sequential):
            return embed(x, None)[0]
        return x if embed is None else embed(x)

    def encode(
        self, x: torch.Tensor, lengths: torch.Tensor, past: Past | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode what the input layer gives.

        Args:
            x: (B, T, output size).
            lengths: (B,) int64.
            past: of streams; None: these are whole utterances.

        Returns:
            (B, T, output size), of streams those that no block before has given and no
            later one will; and (B, layers, output size), contexts of the newest blocks.
        """
        encoder = self.encoder
        frames = x.size(1)
        size = encoder.block_size or frames  # 0: one block as long as the utterance
        hop = encoder.hop_size
        first = torch.arange(1 + torch.sym_max(0, frames - size + hop - 1) // hop) * hop
        index = first[:, None] + torch.arange(size)  # (blocks, size)
        valid = index < lengths[:, None, None]  # (B, blocks, size)
        index = index.clamp(max=frames - 1)
        last = (lengths - size + hop - 1).clamp(min=0) // hop

        blocks = x[:, index] * valid[..., None]
        count = valid.sum(dim=-1, keepdim=True).clamp(min=1)
        own = blocks.sum(dim=2) / count  # (B, blocks, size of a frame)
        start = None if past is None else past.blocks
        if encoder.ctx_pos_enc:
            own = self._placed(own, start)
        x = self._placed(x, None if start is None else start * hop)
        blocks = x[:, index] * valid[..., None]
        x = torch.cat((blocks, own[:, :, None]), dim=2)

        short = lengths <= size
        if past is not None:
            short = short & past.is_final & (past.blocks == 0)
        short = short[:, None, None].expand(-1, first.size(0), -1)
        x, context = self._encode(x, valid, short, last, past)
        if encoder.normalize_before:
            x = encoder.after_norm(x)
        time = torch.arange(frames)[None]
        if past is not None:
            time = self._given(lengths, past, frames)
        return self._join(x, last, time), context

    def _placed(self, x: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """Add positions to (B, T, dim), from ``start`` (B,) on, or from 0."""
        if start is None:
            return self.encoder.pos_enc(x)
        positions = start[:, None] + torch.arange(x.size(1))
        angles = positions.float()[..., None] * torch.tensor(self.frequencies)
        table = torch.stack((torch.sin(angles), torch.cos(angles)), dim=-1)
        return x * self.encoder.pos_enc.xscale + table.flatten(2)

    def _encode(
        self,
        x: torch.Tensor,
        valid: torch.Tensor,
        short: torch.Tensor,
        last: torch.Tensor,
        past: Past | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layers; before each, a block's context goes in front of the next block.

        Args:
            x: (B, blocks, size + 1, dim), frames and own contexts.
            valid: (B, blocks, size) whether a place holds a frame.
            short: (B, blocks, 1) whether the utterance is encoded without contexts.
            last: (B,) the newest block.
            past: of streams.

        Returns:
            (B, blocks, size + 2, dim) and (B, layers, dim), the contexts of the newest.
        """
        batch, layers = x.size(0), self.encoder.encoders
        short = short.flatten(0, 1)[:, None]  # (B * blocks, 1, 1)
        frame = torch.nn.functional.pad(valid, (1, 1), value=False)
        frame = frame.flatten(0, 1)[:, None]
        place = torch.arange(x.size(2) + 1)
        # A long utterance's last block attends to the places without a frame, too.
        seen = frame | (~short & (place < x.size(2)))
        alone = ~short & (place == 0)[:, None]
        contexts = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(convolutions_see(layers, lambda: frame | ~short))
            for i, layer in enumerate(layers):
                stack.enter_context(_attends_to_nothing(layer.self_attn, alone))
                own = x[:, :, -1:]
                contexts.append(own[torch.arange(batch), last])
                first = own[:, :1]
                if past is not None:
                    goes_on = past.blocks[:, None, None, None] > 0
                    first = torch.where(goes_on, past.context[:, None, None, i], first)
                before = torch.cat((first, own[:, :-1]), dim=1)
                x = torch.cat((before, x), dim=2).flatten(0, 1)
                x = layer(x, seen)[0].unflatten(0, (batch, -1))
                x = x[:, :, 1:] if i + 1 < len(layers) else x
        return x, torch.cat(contexts, dim=1)

    def _given(self, lengths: torch.Tensor, past: Past, frames: Any) -> torch.Tensor:
        """Numbers of the frames that a call gives, not those before nor those to come.

        Args:
            lengths, past: of the streams.
            frames: the longest length.

        Returns:
            (B, given frames).
        """
        later = self.encoder.look_ahead
        before = self.encoder.block_size - later - self.encoder.hop_size
        first = torch.where(past.blocks > 0, before, 0)
        given = lengths - first - torch.where(past.is_final, 0, later)
        longest = given.max().item()
        torch._check(longest >= 1)
        torch._check(longest <= frames)
        return first[:, None] + torch.arange(longest)

    def _join(
        self, x: torch.Tensor, last: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """Each frame from the block in which it has ``look_ahead`` frames behind it.

        (B, blocks, size + 2, dim), (B,) newest block, (B or 1, T) -> (B, T, dim)
        """
        hop = self.encoder.hop_size
        start = self.encoder.block_size - self.encoder.look_ahead - hop
        block = ((time - start) // hop).clamp(min=0)
        block = torch.minimum(block, last[:, None])
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
        limits="input_layer embed is for token ids",
    )
)
