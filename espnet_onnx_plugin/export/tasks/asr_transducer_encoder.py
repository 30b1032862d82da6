"""The encoder of a stand-alone transducer: input, positions, blocks."""

from __future__ import annotations

import itertools
from typing import TypeVar

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.encoder import EncoderModule
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.patches import sinusoids
from espnet_onnx_plugin.export.registry import find

Lengths = TypeVar("Lengths", int, torch.Tensor)


class TransducerEncoderGraph(EncoderModule):
    """``ESPnetASRTransducerModel.encode`` less the frontend.

    An utterance of a batch gets the result that it gets alone. As in ESPnet's inference
    the attention sees every frame, also where the training masked chunks; convolutions
    are causal then.

    Args:
        model: an ``ESPnetASRTransducerModel``.
        normalize: the choice in ``config.yaml``, or None.
        blocks: types of the blocks in ``body_conf``, one for each.
    """

    def __init__(
        self, model: torch.nn.Module, normalize: str | None, blocks: list[str]
    ):
        super().__init__()
        encoder = model.encoder
        self.normalize = None
        if model.normalize is not None:
            self.normalize = find("normalize", normalize).wrap(model.normalize)
        self.embed = ConvInput(encoder.embed)
        self.positions = encoder.pos_enc.size
        self.blocks = torch.nn.ModuleList(
            find("transducer_block", kind).wrap(block)
            for kind, block in zip(blocks, encoder.encoders.blocks, strict=True)
        )
        self.norm = encoder.encoders.norm_blocks
        self.size = encoder.output_size

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return self.size

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        return {
            "encoder_out": Tensor("float32", ("utterances", "frames", self.size)),
            "encoder_out_lens": Tensor("int64", ("utterances",)),
        }

    def shortest(self) -> int:
        """The fewest feature frames that ESPnet's encoder takes."""
        from espnet2.asr_transducer.utils import check_short_utt

        def fails(frames: int) -> bool:
            if check_short_utt(self.embed.factor, frames)[0]:
                return True
            # ESPnet does not look at the blocks, and their convolutions fail.
            for layer in (self.embed, *self.blocks):
                frames = layer.left(frames) if hasattr(layer, "left") else frames
            return frames < 1

        return next(frames for frames in itertools.count(1) if not fails(frames))

    def forward(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a batch.

        Args:
            feats: (utterances, frames, dim) float32.
            feats_lengths: (utterances,) int64.

        Returns:
            Encoder output and its lengths.
        """
        x, lengths = feats, feats_lengths
        if self.normalize is not None:
            x, lengths = self.normalize(x, lengths)
        x, lengths = self.embed(x, lengths)
        # ESPnet's table ends somewhere, and grows.
        distances = x.size(1) - 1 - torch.arange(2 * x.size(1) - 1)
        positions = sinusoids(distances, self.positions)
        for block in self.blocks:
            x, positions, lengths = block(x, positions, lengths)
        return self.norm(x), lengths


class ConvInput(torch.nn.Module):
    """``espnet2.asr_transducer.encoder.blocks.conv_input.ConvInput``.

    Layers that look behind the last frame see zeros there, as for an utterance alone.
    """

    def __init__(self, embed: torch.nn.Module):
        super().__init__()
        self.factor = embed.subsampling_factor
        self.layers = embed.conv
        self.output = embed.output

    def left(self, lengths: Lengths) -> Lengths:
        """How many frames are left of so many."""
        for layer in self.layers:
            lengths = _left(layer, lengths)
        return lengths

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, frames, dim), (B,) -> (B, fewer frames, size), (B,)."""
        x = x.unsqueeze(1)
        for layer in self.layers:
            pools = isinstance(layer, torch.nn.MaxPool2d)
            if pools or isinstance(layer, torch.nn.Conv2d) and any(layer.padding):
                # What is pooled was rectified: zeros change no maximum.
                x = x.masked_fill(make_pad_mask(lengths, x, 2), 0.0)
            x, lengths = layer(x), _left(layer, lengths)
        return self.joined(x), lengths

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """Equally long inputs: (B, frames, dim) -> (B, fewer frames, size)."""
        return self.joined(self.layers(x.unsqueeze(1)))

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, frames, dim) -> (B, frames, size)."""
        x = x.transpose(1, 2).flatten(2)
        return x if self.output is None else self.output(x)


def _left(layer: torch.nn.Module, lengths: Lengths) -> Lengths:
    """How many frames a layer of the input leaves of so many."""
    if isinstance(layer, torch.nn.MaxPool2d):  # a last window may be cut off
        kernel, stride = (
            size if isinstance(size, int) else size[0]
            for size in (layer.kernel_size, layer.stride)
        )
        return (lengths - kernel + stride - 1) // stride + 1
    if isinstance(layer, torch.nn.Conv2d):
        reach = layer.kernel_size[0] - 2 * layer.padding[0]
        return (lengths - reach) // layer.stride[0] + 1
    return lengths
