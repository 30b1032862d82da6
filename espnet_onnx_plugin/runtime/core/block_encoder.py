"""Encoders that work through speech block by block, each stream with its own state.

The arithmetic is that of ``forward_infer`` in ESPnet's
``espnet2/asr/encoder/contextual_block_{transformer,conformer}_encoder.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle import BlockStream, Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.stream_encoder import (
    Chunk,
    EncodedChunk,
    StreamEncoder,
    run_streams,
)


@dataclass(frozen=True, eq=False)
class BlockState:
    """All that an encoder has to remember of a stream: plain data of bounded size.

    It is never changed: whoever keeps one can go on from there as often as they like,
    and a pickled one goes on in another process.

    Attributes:
        feats: (feature frames, dim) normalized, those that later frames are made of.
        frames: (frames, size) behind the input layer, those that later blocks read.
        blocks: how many are encoded.
        context: (layers, size) of the newest block, the inputs of the layers.
    """

    feats: np.ndarray
    frames: np.ndarray
    blocks: int
    context: np.ndarray


class Plan(NamedTuple):
    """Numbers that follow from those of a stream and its chunk.

    Attributes:
        embedded: how many feature frames go through the input layer.
        kept_feats: how many of the last ones stay for the next chunk.
        new: frames that the input layer makes of them.
        read: frames, of those kept and new ones, that the blocks read.
        kept_frames: how many of the last ones stay.
        blocks: how many are encoded.
        skipped: leading frames of the first one that the block before has given.
        given: encoder frames of the chunk.
    """

    embedded: int
    kept_feats: int
    new: int
    read: int
    kept_frames: int
    blocks: int
    skipped: int
    given: int


def plan(
    stream: BlockStream,
    feats: int,
    frames: int,
    blocks: int,
    is_final: bool,
    exact: bool = False,
) -> Plan:
    """Work out what a chunk makes an encoder do.

    Args:
        stream: of the encoder.
        feats: feature frames kept and new.
        frames: kept ones behind the input layer.
        blocks: encoded before.
        is_final: whether the utterance ends.
        exact: see :class:`BlockEncoder`.
    """
    step, overlap = stream.subsample, stream.block_size - stream.hop_size
    if is_final:
        embedded, kept_feats = feats, 0
    elif exact and step == 1:
        # One stays back, for the last block is known by the frames that end it.
        embedded, kept_feats = max(0, feats - 1), min(feats, 1)
    elif feats // step < 3:
        embedded, kept_feats = 0, feats
    else:
        # With subsample 1 this repeats a frame, as ESPnet does.
        embedded, kept_feats = (feats // step - 1) * step, feats % step + 2 * step
    new = max(0, (embedded - stream.receptive) // step + 1) if embedded else 0
    total = frames + new
    offset = overlap - stream.look_ahead
    skipped = offset if blocks else 0
    if is_final:
        count = 0 if not total else max(1, -((overlap - total) // stream.hop_size))
        return Plan(embedded, 0, new, total, 0, count, skipped, total - skipped)
    count = 0
    if total > stream.block_size:
        count = (total - overlap) // stream.hop_size
    read = overlap + count * stream.hop_size if count else 0
    kept_frames = total - count * stream.hop_size
    given = read - stream.look_ahead - skipped if count else 0
    return Plan(embedded, kept_feats, new, read, kept_frames, count, skipped, given)


class BlockEncoder(StreamEncoder[BlockState]):
    """The encoder of a bundle, for streams.

    Several streams are encoded at once; each gets what it gets alone, and what ESPnet's
    ``forward_infer`` gives for the same chunks. With a convolution as input layer that
    is the encoder output of the whole utterance, however it is cut.

    Args:
        bundle: where the graphs lie.
        device: where they run.
        exact: where the input layer keeps every frame, ESPnet encodes one of them twice
            at the end of each chunk; true: once, so that this, too, is the encoder
            output of the whole utterance.

    Raises:
        PluginError: if the encoder has no graphs for streams.

    Attributes:
        stream: settings of the encoder.
    """

    role = "stream_blocks"

    def __init__(self, bundle: Bundle, device: Device, exact: bool = False):
        if not isinstance(bundle.manifest.stream, BlockStream):
            raise PluginError(
                f"{bundle.path} cannot encode a stream: that takes an encoder "
                "contextual_block_transformer or contextual_block_conformer with a "
                "block_size, in a bundle exported by this version"
            )
        super().__init__(bundle, device)
        self.stream = bundle.manifest.stream
        self.exact = exact
        self._embed = Session(bundle, "stream_embed", device)
        self._blocks = Session(bundle, "stream_blocks", device)
        _, _, dim = self._embed.graph.inputs["feats"].axes
        _, *context = self._blocks.graph.states["context"].axes
        #: Outputs of a chunk that completes no block.
        self._nothing = {
            name: np.zeros((0, int(output.axes[-1])), np.float32)
            for name, output in self._blocks.graph.outputs.items()
        }
        self._start = BlockState(
            np.zeros((0, int(dim)), np.float32),
            np.zeros((0, int(context[-1])), np.float32),
            0,
            np.zeros([int(axis) for axis in context], np.float32),
        )

    def start(self) -> BlockState:
        """The state before the first chunk."""
        return self._start

    @property
    def usual_chunk(self) -> int:
        """One block more or less."""
        return self.stream.subsample * self.stream.hop_size * 3 // 2

    def gives(self, state: BlockState, feats: int) -> bool:
        """Whether there is a block with the last feature frames of an utterance."""
        return self.plan(state, feats, True).blocks > 0

    def turns(self, before: int, count: int, is_final: bool) -> list[slice]:
        """Frames at a time: block by block if ``exact``, else all."""
        if not self.exact:
            return super().turns(before, count, is_final)
        stream = self.stream
        ends = range(
            stream.block_size - stream.look_ahead, before + count + 1, stream.hop_size
        )
        edges = [0, *(end - before for end in ends if end > before)]
        if is_final:
            edges.append(count)
        return [slice(a, b) for a, b in zip(edges, edges[1:])]

    def plan(self, state: BlockState, feats: int, is_final: bool) -> Plan:
        """Tell what a chunk of so many feature frames will give, and what it costs."""
        return plan(
            self.stream,
            len(state.feats) + feats,
            len(state.frames),
            state.blocks,
            is_final,
            self.exact,
        )

    def feed(
        self, chunks: Sequence[Chunk[BlockState]]
    ) -> list[EncodedChunk[BlockState]]:
        """Encode the next chunk of each of several streams.

        Args:
            chunks: each of another stream.

        Returns:
            The new frames of each, in order.

        Raises:
            PluginError: if features have another size, or an utterance ends before it
                has as many as one frame is made of; the states given stay good.
        """
        plans = [self._checked(chunk) for chunk in chunks]
        feats = [np.concatenate((c.state.feats, c.feats)) for c in chunks]
        embedded = run_streams(
            self._embed,
            [
                {"feats": own[: todo.embedded]} if todo.new else None
                for own, todo in zip(feats, plans)
            ],
        )
        frames = [
            (
                np.concatenate((chunk.state.frames, made["frames"][: todo.new]))
                if made
                else chunk.state.frames
            )
            for chunk, todo, made in zip(chunks, plans, embedded)
        ]
        encoded = run_streams(
            self._blocks,
            [
                (
                    dict(
                        frames=own[: todo.read],
                        frames_lens=np.array(todo.read),
                        blocks=np.array(chunk.state.blocks),
                        is_final=np.array(chunk.is_final),
                        context=chunk.state.context,
                    )
                    if todo.blocks
                    else None
                )
                for chunk, todo, own in zip(chunks, plans, frames)
            ],
        )
        results = []
        for i, (chunk, todo) in enumerate(zip(chunks, plans)):
            state, made = chunk.state, encoded[i] or self._nothing
            state = BlockState(
                feats[i][len(feats[i]) - todo.kept_feats :].copy(),
                frames[i][len(frames[i]) - todo.kept_frames :].copy(),
                state.blocks + todo.blocks,
                made["next_context"].copy() if todo.blocks else state.context,
            )
            scores = made.get("ctc_log_probs")
            results.append(
                EncodedChunk(
                    self._start if chunk.is_final else state,
                    made["encoder_out"][: todo.given],
                    None if scores is None else scores[: todo.given],
                )
            )
        return results

    def _checked(self, chunk: Chunk[BlockState]) -> Plan:
        """The plan of a chunk that can be encoded."""
        dim = self._start.feats.shape[1]
        if chunk.feats.ndim != 2 or chunk.feats.shape[1] != dim:
            raise PluginError(
                f"features of shape {chunk.feats.shape} do not fit the encoder: it "
                f"takes (frames, {dim})"
            )
        todo = self.plan(chunk.state, len(chunk.feats), chunk.is_final)
        if chunk.is_final and not todo.blocks:
            raise PluginError(
                f"the utterance ends after {todo.embedded} feature frames, the encoder "
                f"needs {self.stream.receptive}: give it a longer one"
            )
        return todo
