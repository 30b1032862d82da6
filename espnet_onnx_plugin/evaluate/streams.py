"""Comparison of the graphs with which two bundles encode streams."""

from __future__ import annotations

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.evaluate.graphs import Differences
from espnet_onnx_plugin.runtime.core.block_encoder import BlockEncoder, Chunk
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoder, Utterance, to_numpy


class Streams:
    """Utterances as streams of one bundle.

    Args:
        bundle: one whose manifest describes streams.
        device: where they are encoded.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._encoder = Encoder(bundle, device)
        self._blocks = BlockEncoder(bundle, device)
        stream = self._blocks.stream
        #: Feature frames of a chunk: of one block more or less.
        self._chunk = stream.subsample * stream.hop_size * 3 // 2

    def features(self, utterance: Utterance) -> np.ndarray:
        """Features (frames, dim) of an utterance."""
        [feeds] = self._encoder.features([utterance])
        return to_numpy(feeds["feats"])[0]

    def __call__(self, feats: np.ndarray) -> dict[str, np.ndarray]:
        """Encode an utterance chunk by chunk, each normalized by itself.

        Args:
            feats: (frames, dim).

        Returns:
            The outputs of the graph of blocks, of all chunks together.
        """
        state, given = self._blocks.start(), []
        for first in range(0, len(feats), self._chunk):
            part = feats[first : first + self._chunk]
            is_final = first + len(part) == len(feats)
            part = self._blocks.normalize(part)
            [encoded] = self._blocks.feed([Chunk(state, part, is_final)])
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
        differences.add("stream_blocks", ours[name], reference)
