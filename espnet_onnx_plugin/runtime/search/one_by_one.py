"""Scorers whose graphs cannot take the utterances of a batch together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.values import stack
from espnet_onnx_plugin.runtime.search.protocol import Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Picked


class OneByOne(FullScorer):
    """A scorer whose graph lets the utterances of a batch change each other's result.

    An activation that is quantized as it comes has one scale for the whole batch.
    """

    def __init__(self, scorer: FullScorer):
        self._scorer = scorer
        self.is_tree = scorer.is_tree

    def start(self, encoded: Encoded, primers: Primers) -> list[Any]:
        """The states of the utterances, one by one."""
        return [
            self._scorer.start(encoded.select([i]), [primer])
            for i, primer in enumerate(primers)
        ]

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: list[Any]
    ) -> tuple[np.ndarray, list[Any]]:
        """Score all continuations, utterance by utterance."""
        scored = [
            self._scorer.score(row[None], of_row[None], one)
            for row, of_row, one in zip(tokens, parents, state)
        ]
        return np.concatenate([scores for scores, _ in scored]), [s for _, s in scored]

    def score_resident(
        self, tokens: np.ndarray, parents: np.ndarray, state: list[Any]
    ) -> tuple[Value, list[Any]]:
        """Score all continuations, utterance by utterance."""
        scored = [
            self._scorer.score_resident(row[None], of_row[None], one)
            for row, of_row, one in zip(tokens, parents, state)
        ]
        return stack([scores for scores, _ in scored]), [s for _, s in scored]

    def hidden(self, state: list[Any]) -> np.ndarray:
        """Input of the output layer in the newest step."""
        return np.concatenate([self._scorer.hidden(one) for one in state])

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores of the token behind each one of a sequence."""
        return self._scorer.along(encoded, tokens)

    def join(self, picked: Sequence[Sequence[Picked]]) -> list[Any]:
        """The states of hypotheses of several states, utterance by utterance."""
        return [
            self._scorer.join([[Picked(s[i], 0, j) for s, i, j in row]])
            for row in picked
        ]

    def select(self, utterances: Sequence[int], state: list[Any]) -> list[Any]:
        """The states of some of the utterances."""
        return [state[i] for i in utterances]

    def rest(self, state: list[Any], utterance: int) -> Any:
        """The state of one utterance, from its own."""
        return self._scorer.rest(state[utterance], 0)

    def project(self, encoded: Encoded) -> list[Any]:
        """The projections of the utterances, one by one."""
        utterances = range(encoded.utterances)
        return [self._scorer.project(encoded.select([i])) for i in utterances]

    def resume(self, states: Sequence[Any], projected: list[Any]) -> list[Any]:
        """The states of the utterances, one by one."""
        pairs = zip(states, projected)
        return [self._scorer.resume([state], one) for state, one in pairs]

    def restart(
        self, windows: np.ndarray, state: list[Any]
    ) -> tuple[np.ndarray, list[Any]]:
        """Score all continuations, utterance by utterance."""
        pairs = zip(windows, state)
        scored = [self._scorer.restart(row[None], one) for row, one in pairs]
        return np.concatenate([scores for scores, _ in scored]), [s for _, s in scored]
