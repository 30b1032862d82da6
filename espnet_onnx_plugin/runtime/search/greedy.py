"""The CTC's best token of each frame."""

from __future__ import annotations

from collections.abc import Container
from itertools import groupby

import numpy as np

from espnet_onnx_plugin.bundle.search import LabelSynchronous, Transducer
from espnet_onnx_plugin.runtime.core.encoder import INTERCTC, LENS, Encoded
from espnet_onnx_plugin.runtime.core.values import argmax, take
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers, Scorer


def collapsed(best: np.ndarray, left_out: Container[int]) -> list[int]:
    """The best tokens of frames (frames,), without repetitions."""
    return [token for token, _ in groupby(best.tolist()) if token not in left_out]


def best_of_frames(encoded: Encoded, name: str = "ctc_log_probs") -> list[np.ndarray]:
    """The best token of each frame, (frames,) for each utterance.

    Args:
        encoded: the encoder's outputs.
        name: of the one with the CTC's scores.
    """
    value, lengths = encoded[name], encoded.lengths_of(name)
    if isinstance(value, np.ndarray):  # nothing is spent on what is padded
        return [argmax(scores[:frames]) for scores, frames in zip(value, lengths)]
    return [best[:frames] for best, frames in zip(argmax(value), lengths)]


def intermediate_tokens(
    encoded: Encoded, utterance: int, search: LabelSynchronous | Transducer
) -> dict[int, list[int]]:
    """Greedy result of each intermediate CTC for an utterance, by layer.

    Args:
        search: ids of the symbols that are left out.
    """
    left_out = {search.sos, search.eos, search.blank}
    names = [name for name in encoded if name.startswith(INTERCTC)]
    layers = {}
    for name in names:
        if not name.endswith(LENS):
            frames = int(encoded.lengths_of(name)[utterance])
            [best] = argmax(take(encoded[name], [utterance], frames))
            layers[int(name[len(INTERCTC) :])] = collapsed(best, left_out)
    return layers


class GreedySearch:
    """The best token of each frame of the CTC, without repetitions and blanks.

    Args:
        ids: of the symbols.
    """

    def __init__(self, ids: LabelSynchronous | Transducer):
        self._ids = ids
        #: None: the CTC's scores are the encoder's.
        self.scorers: dict[str, Scorer] = {}
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """One hypothesis for each utterance; primers are ignored."""
        ids = self._ids
        found = (collapsed(best, {ids.blank}) for best in best_of_frames(encoded))
        return [[Hypothesis([ids.sos, *tokens, ids.eos])] for tokens in found]
