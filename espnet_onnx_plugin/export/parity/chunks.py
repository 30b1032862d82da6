"""Measured equality of the graphs for streams and ESPnet's ``chunk_forward``.

Two streams run side by side through the graphs, and each alone through PyTorch.
"""

from __future__ import annotations

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.streaming import normalize_chunk
from espnet_onnx_plugin.export.parity.tolerance import require
from espnet_onnx_plugin.runtime.core.chunk_encoder import ChunkEncoder
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.stream_encoder import Chunk

#: Frames before a chunk that attention sees: none, fewer than a chunk has, and more.
LEFT_CONTEXTS = (0, 2, 32)


class Reference:
    """A stream as ESPnet's streaming inference runs it.

    Args:
        model: ESPnet's model.
        again: feature frames of before that a chunk begins with.
        left_context: encoder frames before a chunk that attention sees.
    """

    def __init__(self, model: torch.nn.Module, again: int, left_context: int):
        self._model, self._again, self._left = model, again, left_context
        self._feats: torch.Tensor | None = None
        self._processed = torch.tensor([[0]])
        self._blocks = model.encoder.encoders.blocks
        model.encoder.reset_cache(left_context, torch.device("cpu"))
        #: ESPnet's, a tensor or a list for each block, which the streams share.
        self.caches = [block.cache for block in self._blocks]

    @torch.no_grad()
    def feed(self, feats: np.ndarray) -> np.ndarray:
        """Encode the normalized features (frames, dim) of a chunk."""
        x = torch.from_numpy(feats.copy())[None]
        if self._feats is not None:
            x = torch.cat((self._feats, x), dim=1)
        self._feats = x[:, -self._again :]
        for block, cache in zip(self._blocks, self.caches):
            block.cache = cache
        lengths = torch.tensor([x.size(1)])
        encoder = self._model.encoder
        out = encoder.chunk_forward(x, lengths, self._processed, self._left)
        self.caches = [block.cache for block in self._blocks]
        self._processed = self._processed + out.size(1)
        return out[0].numpy()


def check_chunks(model: torch.nn.Module, bundle: Bundle, device: Device) -> float:
    """Compare the graphs for streams with ESPnet's encoder, chunk by chunk.

    Args:
        model: ESPnet's model.
        bundle: the graphs.
        device: what they run on.

    Returns:
        The largest relative difference of any output.

    Raises:
        PluginError: if one is above the tolerance.
    """
    random = np.random.default_rng(0)
    worst = 0.0
    for left_context in LEFT_CONTEXTS:
        encoder = ChunkEncoder(bundle, device, left_context)
        again, shortest = encoder.stream.again, encoder.stream.shortest
        dim = encoder.start().feats.shape[1]
        plans = [[shortest, 4 * shortest, shortest, shortest + 1, 3 * shortest]]
        plans.append([2 * shortest + 1, 4 * shortest, *plans[0][2:]])
        states = [encoder.start() for _ in plans]
        references = [Reference(model, again, left_context) for _ in plans]
        for number, sizes in enumerate(zip(*plans)):
            asked, expected = [], []
            for state, reference, size in zip(states, references, sizes):
                feats = random.standard_normal((size, dim), np.float32)
                normalized = normalize_chunk(model, feats)
                figure = difference(encoder.normalize(feats), normalized)
                what = f"{size} feature frames"
                worst = max(worst, require("stream_normalize", what, figure))
                asked.append(Chunk(state, normalized, False))
                expected.append(reference.feed(normalized))
            made = encoder.feed(asked)
            states = [one.state for one in made]
            what = (
                f"chunk {number + 1} of {sizes} feature frames, {left_context} before"
            )
            for one, out in zip(made, expected):
                figure = difference(one.encoder_out, out)
                worst = max(worst, require(encoder.role, what, figure))
    return worst
