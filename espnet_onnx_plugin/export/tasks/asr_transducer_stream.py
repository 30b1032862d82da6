"""Graphs with which a stand-alone transducer encodes streams chunk by chunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from espnet_onnx_plugin.bundle import Bundle, ChunkStream, State, Tensor
from espnet_onnx_plugin.export.block_stream import normalize_specs
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.parity.chunks import check_chunks
from espnet_onnx_plugin.export.patches import sinusoids
from espnet_onnx_plugin.export.tasks.asr_transducer_encoder import (
    TransducerEncoderGraph,
)
from espnet_onnx_plugin.runtime.core.device import Device


class _Chunks(torch.nn.Module):
    """``Encoder.chunk_forward`` of ``espnet2/asr_transducer/encoder/encoder.py``.

    Attributes:
        states: those of the blocks, numbered.
    """

    def __init__(self, encoder: TransducerEncoderGraph):
        super().__init__()
        self.encoder = encoder
        self._states = [block.states for block in encoder.blocks]
        self.states: dict[str, State] = {
            f"{name}_{i}": state
            for i, states in enumerate(self._states)
            for name, state in states.items()
        }

    def forward(
        self, feats: torch.Tensor, processed: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Encode a chunk of each of several streams.

        Args:
            feats: (B, T, dim), normalized.
            processed: (B,) int64, encoder frames before these.
            states: as :attr:`states` names them.

        Returns:
            (B, T', size), and the next states.
        """
        encoder, behind = self.encoder, []
        # The first and the last frame see where the features were cut.
        x = encoder.embed.whole(feats)[:, 1:-1]
        frames, left = x.size(1), self._left(states)
        distances = left + frames - 1 - torch.arange(left + 2 * frames - 1)
        positions = sinusoids(distances, encoder.positions)
        missing = left - 1 - torch.arange(left) >= processed[:, None]
        mask = torch.cat((missing, torch.zeros_like(x[..., 0], dtype=torch.bool)), 1)
        first = 0
        for block, own in zip(encoder.blocks, self._states):
            before = states[first : first + len(own)]
            x, positions, after = block.chunk(x, positions, mask, before)
            behind += after
            first += len(own)
        return (encoder.norm(x), *behind)

    def _left(self, states: Sequence[torch.Tensor]) -> int:
        """How many frames before a chunk attention sees."""
        for state, described in zip(states, self.states.values()):
            if "left" in described.axes:
                return state.size(1)
        return 0


class ChunkStreamGraphs:
    """Graphs with which a model encodes streams, and what the manifest says of them.

    ESPnet normalizes the features of each chunk, then trims those that the next chunk
    gives again; so the normalization is a graph of its own.

    Args:
        encoder: of whole utterances.
        normalize: the name and the module, or None.
    """

    def __init__(
        self,
        encoder: TransducerEncoderGraph,
        normalize: tuple[str, torch.nn.Module] | None,
    ):
        self.normalize = normalize
        self.chunks = _Chunks(encoder).eval()
        embed = encoder.embed
        self.settings = ChunkStream(
            again=2 * embed.factor + 3,
            shortest=next(n for n in itertools.count(1) if embed.left(n) >= 3),
            normalize=None if normalize is None else normalize[0],
        )

    def check(self, model: torch.nn.Module, bundle: Bundle, device: Device) -> float:
        """Compare the graphs with ESPnet's model, see :func:`.check_chunks`."""
        return check_chunks(model, bundle, device)

    def graph_specs(self, dim: int) -> dict[str, GraphSpec]:
        """The graphs by role.

        Args:
            dim: size of the features.
        """
        # An odd number, see ``export.frontend.audio_specs``.
        sizes = dict(streams=2, frames_in=self.settings.shortest * 3 // 2 * 2 + 1)
        feats = Tensor("float32", ("streams", "frames_in", dim))
        whole = Tensor("int64", ("streams",))
        size = self.chunks.encoder.output_size()
        specs = normalize_specs(self.normalize, dim, sizes)
        specs["stream_chunks"] = GraphSpec(
            self.chunks,
            {"feats": feats, "processed": whole},
            {"encoder_out": Tensor("float32", ("streams", "frames", size))},
            self.chunks.states,
            dict(sizes, left=11),
        )
        return specs


def wrap_chunks(
    model: torch.nn.Module, encoder: TransducerEncoderGraph, normalize: str | None
) -> ChunkStreamGraphs | None:
    """The graphs for streams; None where ESPnet cannot encode one with the model.

    Args:
        model: ESPnet's.
        encoder: its encoder graph, for whole utterances.
        normalize: what ``config.yaml`` names for it.
    """
    # ESPnet's streaming cuts waveforms.
    if model.frontend is None or not all(block.streams for block in encoder.blocks):
        return None
    named = None
    if normalize is not None and model.normalize is not None:
        named = normalize, model.normalize
    return ChunkStreamGraphs(encoder, named)
