"""The CTC's best token of each frame."""

from itertools import groupby
from typing import Container, Dict, List, Mapping

import numpy as np

from espnet_onnx_plugin.runtime.encoder import INTERCTC, Encoded
from espnet_onnx_plugin.runtime.scorers import FullScorer
from espnet_onnx_plugin.runtime.utterance_search import Hypothesis


def greedy(log_probs: np.ndarray, left_out: Container[int]) -> List[int]:
    """The best token of each frame (frames, vocabulary), without repetitions."""
    best = log_probs.argmax(axis=-1).tolist()
    return [token for token, _ in groupby(best) if token not in left_out]


def intermediate_tokens(
    encoded: Encoded, utterance: int, ids: Mapping[str, int]
) -> Dict[int, List[int]]:
    """What each intermediate CTC gives for an utterance, by layer.

    Args:
        ids: of sos, eos and blank.
    """
    left_out = {ids[name] for name in ("sos", "eos", "blank")}
    frames = encoded.lengths[utterance]
    return {
        int(name[len(INTERCTC) :]): greedy(value[utterance, :frames], left_out)
        for name, value in encoded.items()
        if name.startswith(INTERCTC)
    }


class GreedySearch:
    """The best token of each frame of the CTC, without repetitions and blanks.

    Args:
        ids: of sos, eos and blank.
    """

    def __init__(self, ids: Mapping[str, int]):
        self._ids = ids
        self.scorers: Dict[str, FullScorer] = {}
        #: Seconds that the newest call spent, by scorer.
        self.seconds: Dict[str, float] = {}

    def __call__(self, encoded: Encoded) -> List[List[Hypothesis]]:
        """One hypothesis for each utterance."""
        ids, results = self._ids, []
        for log_probs, frames in zip(encoded["ctc_log_probs"], encoded.lengths):
            tokens = greedy(log_probs[:frames], {ids["blank"]})
            results.append([Hypothesis([ids["sos"], *tokens, ids["eos"]])])
        return results
