"""Scores of an n-gram model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.protocol import Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer


class _NgramState(NamedTuple):
    """Contexts of an utterance's hypotheses; scores of every context that it met."""

    contexts: list[Any]
    known: dict[Any, np.ndarray]
    first: bool


class NgramScorer(FullScorer):
    """A KenLM model over tokens (log10, as ESPnet takes it).

    Rows are remembered by the model's own state, so that a context is scored once per
    utterance however many hypotheses share it.

    Args:
        path: ARPA or binary file.
        token_list: the vocabulary.

    Raises:
        PluginError: if the package kenlm is missing or cannot read the file.
    """

    def __init__(self, path: str, token_list: list[str]):
        try:
            import kenlm
        except ImportError:
            raise PluginError(
                "ngram_weight needs the package kenlm: pip install kenlm (on Python up "
                "to 3.12), or set ngram_weight to 0"
            )
        self._kenlm = kenlm
        try:
            self._model = kenlm.LanguageModel(path)
        except (OSError, RuntimeError):
            raise PluginError(f"kenlm cannot read {path}; build the n-gram model again")
        # ESPnet's n-gram models are trained with these names for the sentence's ends.
        self._words = ["</s>" if t == "<eos>" else t for t in token_list]

    def start(self, encoded: Encoded, primers: Primers) -> list[Any]:
        """The contexts before the last token of each primer."""
        state = self._kenlm.State()
        self._model.NullContextWrite(state)
        # As in ESPnet, of a longer primer the last token alone is context.
        return [_NgramState([state], {}, len(primer) == 1) for primer in primers]

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: list[Any]
    ) -> tuple[np.ndarray, list[Any]]:
        """Score all continuations, each context once."""
        scored = [self._score(*args) for args in zip(tokens, parents, state)]
        return np.stack([rows for rows, _ in scored]), [s for _, s in scored]

    def select(self, utterances: Sequence[int], state: list[Any]) -> list[Any]:
        """The contexts of some of the utterances."""
        return [state[i] for i in utterances]

    def rest(self, state: list[Any], utterance: int) -> Any:
        """The contexts of one utterance, which are KenLM's own and not plain data."""
        return state[utterance]

    def resume(self, states: Sequence[Any], projected: None) -> list[Any]:
        """The contexts of all utterances."""
        return list(states)

    def _score(
        self, tokens: np.ndarray, parents: np.ndarray, state: _NgramState
    ) -> tuple[np.ndarray, _NgramState]:
        """Score the hypotheses of one utterance."""
        rows, contexts = [], []
        for token, parent in zip(tokens, parents):
            word = "<s>" if state.first else self._words[token]
            context = self._kenlm.State()
            self._model.BaseScore(state.contexts[parent], word, context)
            if context not in state.known:
                state.known[context] = self._row(context)
            rows.append(state.known[context])
            contexts.append(context)
        return np.stack(rows), _NgramState(contexts, state.known, False)

    def _row(self, state: Any) -> np.ndarray:
        scratch = self._kenlm.State()
        score = self._model.BaseScore
        return np.array([score(state, w, scratch) for w in self._words], np.float32)
