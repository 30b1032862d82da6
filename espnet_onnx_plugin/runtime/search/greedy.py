"""The CTC's best token of each frame."""

from __future__ import annotations

from collections.abc import Container
from itertools import groupby

import numpy as np

from espnet_onnx_plugin.bundle.search import LabelSynchronous, Transducer
from espnet_onnx_plugin.runtime.core.encoder import INTERCTC, LENS, Encoded
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers, Scorer


def greedy(log_probs: np.ndarray, left_out: Container[int]) -> list[int]:
    """The best token of each frame (frames, vocabulary), without repetitions."""
    best = log_probs.argmax(axis=-1).tolist()
    return [token for token, _ in groupby(best) if token not in left_out]


def best_of_frames(encoded: Encoded) -> list[np.ndarray]:
    """The best token of each frame, (frames,) for each utterance."""
    return [
        scores[:frames].argmax(axis=-1)
        for scores, frames in zip(encoded["ctc_log_probs"], encoded.lengths)
    ]


def intermediate_tokens(
    encoded: Encoded, utterance: int, search: LabelSynchronous | Transducer
) -> dict[int, list[int]]:
    """Greedy result of each intermediate CTC for an utterance, by layer.

    Args:
        search: ids of the symbols that are left out.
    """
    left_out = {search.sos, search.eos, search.blank}
    return {
        int(name[len(INTERCTC) :]): greedy(
            value[utterance, : encoded.lengths_of(name)[utterance]], left_out
        )
        for name, value in encoded.items()
        if name.startswith(INTERCTC) and not name.endswith(LENS)
    }


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
        ids, results = self._ids, []
        for log_probs, frames in zip(encoded["ctc_log_probs"], encoded.lengths):
            tokens = greedy(log_probs[:frames], {ids.blank})
            results.append([Hypothesis([ids.sos, *tokens, ids.eos])])
        return results
