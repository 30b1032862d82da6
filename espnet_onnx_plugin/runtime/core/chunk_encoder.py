"""Encoders of stand-alone transducers, which work through speech chunk by chunk.

The arithmetic is that of ``espnet2/asr_transducer/encoder/encoder.py``
(``chunk_forward``) and of ``frontend/online_audio_processor.py`` beside it, which puts
the last features of before in front of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, ChunkStream
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
class ChunkState:
    """State of a stream, see :class:`.EncoderState`.

    Attributes:
        feats: (feature frames, dim) that the next chunk begins with.
        processed: encoder frames so far.
        caches: what attention and convolutions look back to, by name of the graph.
    """

    feats: np.ndarray
    processed: int
    caches: Mapping[str, np.ndarray]


class ChunkEncoder(StreamEncoder[ChunkState]):
    """The encoder of a bundle, for streams of a stand-alone transducer.

    Several streams are encoded at once; each gets what ESPnet's ``chunk_forward`` gives
    for the same chunks. A chunk that is too short for an encoder frame, on which ESPnet
    fails, waits for the next one.

    Args:
        bundle, device: see :class:`.StreamEncoder`.
        left_context: encoder frames before a chunk that attention sees.

    Raises:
        PluginError: if the encoder has no graphs for streams.

    Attributes:
        stream: settings of the encoder.
    """

    role = "stream_chunks"

    def __init__(self, bundle: Bundle, device: Device, left_context: int = 32):
        if not isinstance(bundle.manifest.stream, ChunkStream):
            raise PluginError(
                f"{bundle.path} cannot encode a stream: that takes a bundle exported "
                "by this version, of a model that reads waveforms and whose conv1d "
                "blocks, if any, have dynamic_chunk_training: true and a kernel_size "
                "above 1, in ESPnet 202511 with dilation 1"
            )
        super().__init__(bundle, device)
        self.stream = bundle.manifest.stream
        self._chunks = Session(bundle, self.role, device)
        self._left = left_context
        graph = self._chunks.graph
        *_, dim = graph.inputs["feats"].axes
        *_, size = graph.outputs["encoder_out"].axes
        self._nothing = np.zeros((0, int(size)), np.float32)
        #: Names of the states that have a row for each frame before.
        self._attention = [k for k, s in graph.states.items() if "left" in s.axes]
        caches = {
            name: np.zeros(
                [left_context if axis == "left" else int(axis) for axis in axes],
                np.float32,
            )
            for name, state in graph.states.items()
            for _, *axes in [state.axes]
        }
        self._start = ChunkState(np.zeros((0, int(dim)), np.float32), 0, caches)

    def start(self) -> ChunkState:
        """The state before the first chunk."""
        return self._start

    @property
    def usual_chunk(self) -> int:
        """A few encoder frames."""
        return 2 * self.stream.shortest

    def feed(
        self, chunks: Sequence[Chunk[ChunkState]]
    ) -> list[EncodedChunk[ChunkState]]:
        """Encode the next chunk of each of several streams.

        Args:
            chunks: each of another stream.

        Returns:
            The new frames of each, in order.
        """
        feats = [np.concatenate((c.state.feats, c.feats)) for c in chunks]
        made: list[dict[str, np.ndarray] | None] = [None] * len(chunks)
        # Those of one length together: no frame of a chunk is padding.
        for length in {len(own) for own in feats if len(own) >= self.stream.shortest}:
            rows = [
                (
                    dict(
                        feats=own,
                        processed=np.array(chunk.state.processed),
                        **chunk.state.caches,
                    )
                    if len(own) == length
                    else None
                )
                for chunk, own in zip(chunks, feats)
            ]
            for i, outputs in enumerate(run_streams(self._chunks, rows)):
                made[i] = made[i] if outputs is None else outputs
        return [
            self._encoded(chunk, own, outputs)
            for chunk, own, outputs in zip(chunks, feats, made)
        ]

    def _encoded(
        self,
        chunk: Chunk[ChunkState],
        feats: np.ndarray,
        made: Mapping[str, np.ndarray] | None,
    ) -> EncodedChunk[ChunkState]:
        """The outcome of a chunk.

        Args:
            chunk: the chunk.
            feats: all that is there.
            made: what the graph gave; None: it did not run.
        """
        out = self._nothing if made is None else made["encoder_out"]
        if chunk.is_final:
            return EncodedChunk(self._start, out)
        if made is None:
            waiting = ChunkState(feats, chunk.state.processed, chunk.state.caches)
            return EncodedChunk(waiting, out)
        caches = {name: made[f"next_{name}"].copy() for name in chunk.state.caches}
        for name in self._attention:
            caches[name] = caches[name][: self._left]  # of none the graph gives all
        again = feats[-self.stream.again :].copy()
        processed = chunk.state.processed + len(out)
        return EncodedChunk(ChunkState(again, processed, caches), out)
