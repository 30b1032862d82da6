"""Scorers of the next token of a hypothesis.

A *full* scorer scores every token of the vocabulary; the searches know nothing else of
it. It takes all hypotheses of a batch of utterances at once. Scorers hold no state of
an utterance: :meth:`start` makes it and :meth:`score` returns the next one, and an
older state can be scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.search.protocol import Primers, Scorer


class Picked(NamedTuple):
    """A hypothesis of a state.

    Attributes:
        state: of :class:`FullScorer`.
        utterance, hypothesis: which one.
    """

    state: Any
    utterance: int
    hypothesis: int


class FullScorer(Scorer, Protocol):
    """Scores every token as the continuation of each hypothesis.

    Attributes:
        is_tree: whether it reads all tokens of a hypothesis, which it keeps as nodes of
            a tree; else the last one and its own state.
    """

    is_tree: bool = False

    def start(self, encoded: Encoded, primers: Primers) -> Any:
        """The state in which each utterance has one hypothesis.

        Args:
            encoded: the encoder's outputs.
            primers: the tokens that each utterance's hypothesis begins with. Scoring
                continues at the last of them, which :meth:`score` is given first.
        """

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any]:
        """Score all continuations.

        Args:
            tokens: (utterances, hypotheses) int64, the last token of each hypothesis.
            parents: (utterances, hypotheses) int64, which hypothesis of the previous
                step, counted within the utterance, each extends.
            state: of the previous step.

        Returns:
            Log probabilities (utterances, hypotheses, vocabulary) float32, and the
            state of these hypotheses.
        """

    def score_resident(
        self, tokens: np.ndarray, parents: np.ndarray, state: Any
    ) -> tuple[Value, Any]:
        """Score all continuations; see :meth:`score`.

        Returns:
            As :meth:`score`, or log probabilities that stay on the device, (utterances
            * hypotheses, vocabulary).
        """
        return self.score(tokens, parents, state)

    def select(self, utterances: Sequence[int], state: Any) -> Any:
        """The state of some of the utterances."""

    def rest(self, state: Any, utterance: int) -> Any:
        """The state of one utterance as plain data, less what its encoder output is
        projected to: to be kept, and to be gone on from by :meth:`resume`.
        """
        raise ValueError("the scorer is not for searches by blocks")

    def project(self, encoded: Encoded) -> Any:
        """Project encoder outputs to what every step reads; None: to nothing."""
        return None

    def resume(self, states: Sequence[Any], projected: Any) -> Any:
        """The state in which utterances go on, now with these encoder outputs.

        Args:
            states: of each utterance, as :meth:`rest` gave it.
            projected: what :meth:`project` gave, for instance of more frames than
                before.
        """
        raise ValueError("the scorer is not for searches by blocks")

    def restart(self, windows: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Score all continuations of hypotheses from their newest tokens alone; only
        for scorers that are trees.

        Args:
            windows: (utterances, hypotheses, tokens) int64.
            state: of the utterances; what it knows of their hypotheses is dropped.

        Returns:
            As :meth:`score`.
        """
        raise ValueError("the scorer keeps no tree")

    def join(self, picked: Sequence[Sequence[Picked]]) -> Any:
        """The state of hypotheses of several states, to be scored in one call.

        Args:
            picked: (utterances, hypotheses), as many of each utterance.

        Raises:
            ValueError: if the scorer cannot.
        """
        raise ValueError("the scorer does not join states")

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores of the token behind each one of a sequence, (tokens, vocabulary).

        Args:
            encoded: the encoder's outputs for one utterance.
            tokens: the sequence.
        """
        state = self.start(encoded, [tokens[:1]])
        parents = np.zeros((1, 1), np.int64)
        rows = []
        for token in tokens:
            scores, state = self.score(np.array([[token]]), parents, state)
            rows.append(scores[0, 0])
        return np.stack(rows)

    def hidden(self, state: Any) -> np.ndarray:
        """Input of a decoder's output layer in the newest step.

        Returns:
            (utterances, hypotheses, dim) float32.

        Raises:
            ValueError: if the scorer does not tell.
        """
        raise ValueError("the scorer gives no hidden output")


class LengthBonus(FullScorer):
    """One point for each token."""

    def __init__(self, vocabulary: int):
        self._vocabulary = vocabulary

    def start(self, encoded: Encoded, primers: Primers) -> None:
        """No state."""

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: None
    ) -> tuple[np.ndarray, None]:
        """Give one point to every continuation."""
        return np.ones((*tokens.shape, self._vocabulary), dtype=np.float32), None

    def score_resident(
        self, tokens: np.ndarray, parents: np.ndarray, state: None
    ) -> tuple[np.ndarray, None]:
        """Give one point to every continuation, as an array that holds one number."""
        # In arithmetic it takes twice the time of an array of ones: 33 against 16 us.
        return np.broadcast_to(np.float32(1), (*tokens.shape, self._vocabulary)), None

    def select(self, utterances: Sequence[int], state: None) -> None:
        """No state."""

    def rest(self, state: None, utterance: int) -> None:
        """No state."""

    def resume(self, states: Sequence[None], projected: None) -> None:
        """No state."""
