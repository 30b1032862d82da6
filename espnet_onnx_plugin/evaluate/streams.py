"""Comparison of the graphs with which two bundles encode streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import BlockStream, Bundle
from espnet_onnx_plugin.evaluate.graphs import Differences
from espnet_onnx_plugin.runtime.core.block_encoder import BlockEncoder
from espnet_onnx_plugin.runtime.core.chunk_encoder import ChunkEncoder
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoder, Utterance
from espnet_onnx_plugin.runtime.core.stream_encoder import Chunk, StreamEncoder
from espnet_onnx_plugin.runtime.core.values import to_numpy


class Streams:
    """Utterances as streams of one bundle.

    Args:
        bundle: one whose manifest describes streams.
        device: where they are encoded.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._encoder = Encoder(bundle, device)
        blocks = isinstance(bundle.manifest.stream, BlockStream)
        kind: type[BlockEncoder] | type[ChunkEncoder]
        kind = BlockEncoder if blocks else ChunkEncoder
        self.stream_encoder: StreamEncoder[Any] = kind(bundle, device)

    def features(self, utterance: Utterance) -> np.ndarray:
        """Features (frames, dim) of an utterance."""
        [feeds] = self._encoder.features([utterance])
        return to_numpy(feeds["feats"])[0]

    def __call__(self, feats: np.ndarray) -> dict[str, np.ndarray]:
        """Encode an utterance chunk by chunk, each normalized by itself.

        Args:
            feats: (frames, dim).

        Returns:
            The outputs of the graph that encodes, of all chunks together.
        """
        encoder = self.stream_encoder
        state, given, size = encoder.start(), [], encoder.usual_chunk
        for first in range(0, len(feats), size):
            part = feats[first : first + size]
            is_final = first + len(part) == len(feats)
            part = encoder.normalize(part)
            [encoded] = encoder.feed([Chunk(state, part, is_final)])
            state = encoded.state
            given.append(encoded)
        outputs = {"encoder_out": np.concatenate([one.encoder_out for one in given])}
        scores = [s for one in given if (s := one.ctc_log_probs) is not None]
        if scores:
            outputs["ctc_log_probs"] = np.concatenate(scores)
        return outputs


def compare_streams(
    left: Streams, right: Streams, utterance: Utterance, differences: Differences
) -> None:
    """Compare what two bundles make of the same features."""
    feats = left.features(utterance)
    expected, ours = left(feats), right(feats)
    for name, reference in expected.items():
        differences.add(left.stream_encoder.role, ours[name], reference)
