"""Graphs of an encoder that encodes streams block by block."""

from __future__ import annotations

from typing import Protocol

import torch

from espnet_onnx_plugin.bundle import BlockStream, Bundle, ChunkStream, State, Tensor
from espnet_onnx_plugin.export.archs.contextual_block_transformer_encoder import (
    ContextualBlockEncoder,
    Past,
)
from espnet_onnx_plugin.export.encoder import EncoderGraph
from espnet_onnx_plugin.export.frontend import shortest_frames
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.parity.streaming import check_stream
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.core.device import Device


class StreamGraphs(Protocol):
    """Graphs with which a model encodes streams."""

    @property
    def settings(self) -> BlockStream | ChunkStream:
        """Settings for the manifest."""

    def graph_specs(self, dim: int) -> dict[str, GraphSpec]:
        """The graphs by role, of features of a size."""

    def check(self, model: torch.nn.Module, bundle: Bundle, device: Device) -> float:
        """Compare them with ESPnet's model; the largest relative difference."""


class _Normalize(torch.nn.Module):
    """Normalization of features (B, T, dim) of so many frames (B,)."""

    def __init__(self, normalize: torch.nn.Module):
        super().__init__()
        self.normalize = normalize

    def forward(self, feats: torch.Tensor, feats_lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, dim), (B,) -> (B, T, dim)."""
        return self.normalize(feats, feats_lengths)[0]


def normalize_specs(
    normalize: tuple[str, torch.nn.Module] | None, dim: int, sizes: dict[str, int]
) -> dict[str, GraphSpec]:
    """The graph that normalizes a chunk of each of several streams, by role.

    Args:
        normalize: the name and the module; None: there is no such graph.
        dim: size of the features.
        sizes: of the axes, to trace with.
    """
    if normalize is None:
        return {}
    name, module = normalize
    feats = Tensor("float32", ("streams", "frames_in", dim))
    return {
        "stream_normalize": GraphSpec(
            _Normalize(find("normalize", name).wrap(module)).eval(),
            {"feats": feats, "feats_lengths": Tensor("int64", ("streams",))},
            {"normalized": feats},
            sizes=sizes,
        )
    }


class _Embed(torch.nn.Module):
    """The input layer of an encoder: (B, T, dim) -> (B, T', size)."""

    def __init__(self, encoder: ContextualBlockEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        """(B, T, dim) -> (B, T', size)."""
        return self.encoder.embed(feats)


class _Blocks(torch.nn.Module):
    """Blocks of frames behind the input layer, and the CTC of what they give."""

    def __init__(self, encoder: ContextualBlockEncoder, ctc: torch.nn.Module | None):
        super().__init__()
        self.encoder = encoder
        self.ctc = ctc

    def forward(
        self,
        frames: torch.Tensor,
        frames_lens: torch.Tensor,
        blocks: torch.Tensor,
        is_final: torch.Tensor,
        context: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Encode frames of several streams.

        Args:
            frames: (B, T, size).
            frames_lens, blocks: (B,) int64, see :class:`Past`.
            is_final: (B,) bool.
            context: (B, layers, size).

        Returns:
            The frames that the blocks give (B, T', size), their log probabilities
            (B, T', vocabulary), and the context of the newest block.
        """
        past = Past(blocks, is_final, context)
        x, context = self.encoder.encode(frames, frames_lens, past)
        scores = [] if self.ctc is None else [self.ctc.log_softmax(x)]
        return (x, *scores, context)


class BlockStreamGraphs:
    """Graphs with which a model encodes streams, and what the manifest says of them.

    ESPnet normalizes the features of each chunk, then trims those that the next chunk
    gives again; so the normalization is a graph of its own.

    Args:
        encoder: ESPnet's.
        wrapped: the same, wrapped.
        normalize: the name and the module, or None.
        ctc: of the model, or None.
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        wrapped: ContextualBlockEncoder,
        normalize: tuple[str, torch.nn.Module] | None,
        ctc: torch.nn.Module | None,
    ):
        self.normalize = normalize
        self.embed = _Embed(wrapped).eval()
        self.blocks = _Blocks(wrapped, ctc).eval()
        self.settings = BlockStream(
            block_size=encoder.block_size,
            hop_size=encoder.hop_size,
            look_ahead=encoder.look_ahead,
            subsample=encoder.subsample,
            receptive=shortest_frames(encoder),
            normalize=None if normalize is None else normalize[0],
        )

    def check(self, model: torch.nn.Module, bundle: Bundle, device: Device) -> float:
        """Compare the graphs with ESPnet's model, see :func:`.check_stream`."""
        return check_stream(model, self.blocks.ctc, bundle, device)

    def graph_specs(self, dim: int) -> dict[str, GraphSpec]:
        """The graphs by role.

        Args:
            dim: size of the features.
        """
        wrapped = self.blocks.encoder
        size, layers = wrapped.output_size(), len(wrapped.encoder.encoders)
        sizes = dict(
            streams=2,
            # An odd number, see ``export.frontend.audio_specs``.
            frames_in=wrapped.trace_frames // 2 * 2 + 1,
            frames=wrapped.three_blocks,
        )
        each = ("streams",)
        feats = Tensor("float32", ("streams", "frames_in", dim))
        frames = Tensor("float32", ("streams", "frames", size))
        whole = Tensor("int64", each)
        outputs = {"encoder_out": Tensor("float32", ("streams", "frames_out", size))}
        if self.blocks.ctc is not None:
            tokens = self.blocks.ctc.ctc_lo.out_features
            axes = ("streams", "frames_out", tokens)
            outputs["ctc_log_probs"] = Tensor("float32", axes)
        specs = normalize_specs(self.normalize, dim, sizes)
        specs["stream_embed"] = GraphSpec(
            self.embed, {"feats": feats}, {"frames": frames}, sizes=sizes
        )
        specs["stream_blocks"] = GraphSpec(
            self.blocks,
            {
                "frames": frames,
                "frames_lens": whole,
                "blocks": whole,
                "is_final": Tensor("bool", each),
            },
            outputs,
            {"context": State("float32", ("streams", layers, size))},
            sizes,
        )
        return specs


def wrap_stream(
    model: torch.nn.Module, graph: EncoderGraph, normalize: str | None
) -> BlockStreamGraphs | None:
    """The graphs for streams; None where ESPnet cannot encode one with the model.

    Its streaming inference leaves out whatever stands before or behind the encoder.

    Args:
        model: ESPnet's.
        graph: its encoder graph, for whole utterances.
        normalize: what ``config.yaml`` names for it.
    """
    around = ("preencoder", "postencoder", "hier_encoder")
    if any(getattr(model, role, None) is not None for role in around):
        return None
    wrapped = graph.encoder
    if not isinstance(wrapped, ContextualBlockEncoder) or not wrapped.streams:
        return None
    named = None
    if normalize is not None and model.normalize is not None:
        named = normalize, model.normalize
    return BlockStreamGraphs(model.encoder, wrapped, named, graph.ctc)
