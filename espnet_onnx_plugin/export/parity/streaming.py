"""Measured equality of the graphs for streams and ESPnet's ``forward_infer``.

Streams run side by side, cut into chunks of all kinds. PyTorch gets each alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from espnet_onnx_plugin.bundle import BlockStream, Bundle
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.tolerance import require
from espnet_onnx_plugin.runtime.core.block_encoder import (
    BlockEncoder,
    BlockState,
    Chunk,
)
from espnet_onnx_plugin.runtime.core.device import Device

#: Feature frames of more than an hour.
HOUR = 400_000


@torch.no_grad()
def normalize_chunk(model: torch.nn.Module, feats: np.ndarray) -> np.ndarray:
    """Normalize the features (frames, dim) of a chunk by ESPnet's model."""
    if model.normalize is None:
        return feats
    # A copy: ESPnet normalizes features in place.
    x, lengths = torch.from_numpy(feats.copy())[None], torch.tensor([len(feats)])
    return model.normalize(x, lengths)[0][0].numpy()


class Reference:
    """A stream as ESPnet's streaming inference runs it.

    Args:
        model: ESPnet's model.
        ctc: of it, or None.

    Attributes:
        states: ESPnet's, of the encoder; None before the first chunk.
    """

    def __init__(self, model: torch.nn.Module, ctc: torch.nn.Module | None):
        self._model, self._ctc = model, ctc
        self.states: dict[str, object] | None = None

    def go_on(self, state: BlockState) -> None:
        """Take over a state in the middle of an utterance."""

        def batch(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.copy())[None]

        # ESPnet keeps the outputs of the layers, and what the first one reads apart.
        beside = np.zeros_like(state.context[:1])
        self.states = dict(
            prev_addin=batch(state.context[:1]),
            buffer_before_downsampling=batch(state.feats),
            ilens_buffer=torch.tensor([len(state.feats)]),
            buffer_after_downsampling=batch(state.frames),
            n_processed_blocks=state.blocks,
            past_encoder_ctx=batch(np.concatenate((state.context[1:], beside))),
        )

    @torch.no_grad()
    def feed(
        self, feats: np.ndarray, is_final: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Encode the normalized features (frames, dim) of a chunk.

        Returns:
            The encoder output (frames, dim), and log probabilities of the CTC.
        """
        x, lengths = torch.from_numpy(feats.copy())[None], torch.tensor([len(feats)])
        out, _, self.states = self._model.encoder(
            x, lengths, self.states, is_final=is_final, infer_mode=True
        )
        scores = None if self._ctc is None else self._ctc.log_softmax(out)[0].numpy()
        return out[0].numpy(), scores


def chunks_of(stream: BlockStream) -> list[list[int]]:
    """Feature frames of the chunks of several utterances.

    The first is as short as one can be, others are encoded without contexts, with
    chunks of several blocks or of none, or as a whole.
    """
    hop, block = (n * stream.subsample for n in (stream.hop_size, stream.block_size))
    return [
        [stream.receptive],
        [block + 3 * hop + 1, hop, 5],
        [block // 2 + 1, block // 2 + 2, 1, 3 * hop + stream.subsample + 1, hop, hop],
        [block],
        [3, block + 1, hop - 1, hop - 1, 2 * hop + 1, 1, 0],
        [2 * block + 7 * hop + 3],
    ]


def check_stream(
    model: torch.nn.Module,
    ctc: torch.nn.Module | None,
    bundle: Bundle,
    device: Device,
) -> float:
    """Compare the graphs for streams with ESPnet's encoder, chunk by chunk.

    Args:
        model: ESPnet's model.
        ctc: what gives the CTC's scores, or None.
        bundle: the graphs.
        device: what they run on.

    Returns:
        The largest relative difference of any output.

    Raises:
        PluginError: if one is above the tolerance.
    """
    encoder = BlockEncoder(bundle, device)
    utterances = chunks_of(encoder.stream)
    references = [Reference(model, ctc) for _ in utterances]
    states = [encoder.start() for _ in utterances]
    random = np.random.default_rng(0)
    # One is in its second hour: positions have to be exact there, too.
    first = encoder.start()
    hop = encoder.stream.hop_size
    kept = encoder.stream.block_size - hop + 1, first.frames.shape[1]
    late = replace(
        first,
        feats=random.standard_normal(
            (2 * encoder.stream.subsample, first.feats.shape[1]), np.float32
        ),
        frames=random.standard_normal(kept, np.float32),
        context=random.standard_normal(first.context.shape, np.float32),
        blocks=HOUR // (hop * encoder.stream.subsample),
    )
    utterances.append(utterances[2])
    references.append(Reference(model, ctc))
    references[-1].go_on(late)
    states.append(late)
    worst = 0.0
    for number in range(max(map(len, utterances))):
        going = [i for i, chunks in enumerate(utterances) if number < len(chunks)]
        asked = []
        for i in going:
            shape = utterances[i][number], first.feats.shape[1]
            feats = random.standard_normal(shape, np.float32)
            if len(feats):
                normalized = normalize_chunk(model, feats)
                figure = difference(encoder.normalize(feats), normalized)
                what = f"{len(feats)} feature frames"
                worst = max(worst, require("stream_normalize", what, figure))
                feats = normalized
            is_final = number + 1 == len(utterances[i])
            asked.append(Chunk(states[i], feats, is_final))
        for i, chunk, fed in zip(going, asked, encoder.feed(asked)):
            out, scores = references[i].feed(chunk.feats, chunk.is_final)
            what = f"chunk {number + 1} of {utterances[i]} feature frames"
            figure = difference(fed.encoder_out, out)
            worst = max(worst, require("stream", what, figure))
            if scores is not None and fed.ctc_log_probs is not None:
                figure = difference(fed.ctc_log_probs, scores)
                worst = max(worst, require("stream (CTC)", what, figure))
            states[i] = fed.state
    return worst
