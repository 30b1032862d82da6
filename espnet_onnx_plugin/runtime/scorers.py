"""What gives a score to the next token of a hypothesis.

A *full* scorer scores every token of the vocabulary; the search below knows nothing
else of it. Scorers hold no state of an utterance: :meth:`start` makes it and
:meth:`score` returns the next one.
"""

from typing import Any, Dict, List, Protocol, Tuple

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.session import Session, Value


class Encoded(Dict[str, Value]):
    """The encoder graph's outputs for one utterance, by name."""

    @property
    def frames(self) -> int:
        """Number of encoder frames."""
        return int(self["encoder_out_lens"][0])


class FullScorer(Protocol):
    """Scores every token as the continuation of each hypothesis."""

    def start(self, encoded: Encoded) -> Any:
        """The state of the empty hypothesis of an utterance."""

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: Any
    ) -> Tuple[np.ndarray, Any]:
        """Score all continuations.

        Args:
            tokens: (N,) int64, the last token of each hypothesis.
            parents: (N,) int64, which row of ``state`` each hypothesis extends.
            state: of the previous step.

        Returns:
            Log probabilities (N, vocabulary) float32, and the state whose rows are
            these hypotheses.
        """


class GraphScorer:
    """A step graph: an attention decoder or a language model.

    Args:
        step: session of the step graph.
        memory: session of the graph that projects the encoder's output, if the step
            reads it.
    """

    def __init__(self, step: Session, memory: "Session | None" = None):
        self._step = step
        self._memory = memory

    def start(self, encoded: Encoded) -> Any:
        """See :class:`FullScorer`."""
        memory: Dict[str, Value] = {}
        if self._memory is not None:
            inputs = {name: encoded[name] for name in self._memory.graph.inputs}
            memory = self._memory.run(inputs, fetch=())
        return memory, self._step.initial_states()

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: Any
    ) -> Tuple[np.ndarray, Any]:
        """See :class:`FullScorer`."""
        memory, states = state
        feeds = {"tokens": tokens[None], "parents": parents[None], **memory}
        log_probs, states = self._step.step(feeds, states, fetch="log_probs")
        return log_probs, (memory, states)


class LengthBonus:
    """One point for each token."""

    def __init__(self, vocabulary: int):
        self._vocabulary = vocabulary

    def start(self, encoded: Encoded) -> None:
        """See :class:`FullScorer`."""

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: None
    ) -> Tuple[np.ndarray, None]:
        """See :class:`FullScorer`."""
        return np.ones((len(tokens), self._vocabulary), dtype=np.float32), None


class NgramScorer:
    """A KenLM model over tokens (log10, as ESPnet takes it).

    Rows are remembered by the model's own state, so that a context is scored once per
    utterance however many hypotheses share it.

    Args:
        path: ARPA or binary file.
        token_list: the vocabulary.

    Raises:
        PluginError: if the package kenlm is missing or cannot read the file.
    """

    def __init__(self, path: str, token_list: List[str]):
        try:
            import kenlm
        except ImportError:
            raise PluginError(
                "ngram_weight needs the package kenlm: pip install kenlm, or set "
                "ngram_weight to 0"
            )
        self._kenlm = kenlm
        try:
            self._model = kenlm.LanguageModel(path)
        except (OSError, RuntimeError):
            raise PluginError(f"kenlm cannot read {path}; build the n-gram model again")
        # ESPnet's n-gram models are trained with these names for the sentence's ends.
        self._words = ["</s>" if t == "<eos>" else t for t in token_list]

    def start(self, encoded: Encoded) -> Any:
        """See :class:`FullScorer`."""
        state = self._kenlm.State()
        self._model.NullContextWrite(state)
        return [state], {}, True

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: Any
    ) -> Tuple[np.ndarray, Any]:
        """See :class:`FullScorer`."""
        previous, known, first = state
        rows, states = [], []
        for token, parent in zip(tokens, parents):
            word = "<s>" if first else self._words[token]
            after = self._kenlm.State()
            self._model.BaseScore(previous[parent], word, after)
            if after not in known:
                known[after] = self._row(after)
            rows.append(known[after])
            states.append(after)
        return np.stack(rows), (states, known, False)

    def _row(self, state: Any) -> np.ndarray:
        scratch = self._kenlm.State()
        score = self._model.BaseScore
        return np.array([score(state, w, scratch) for w in self._words], np.float32)
