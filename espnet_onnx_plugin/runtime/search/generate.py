"""The search of Hugging Face's ``generate``: greedy, or with beams.

As transformers 4.57 does it, in float32 like there. It is not ESPnet's search:
hypotheses that ended are ranked by their score per token, and compete with the running
ones for the end of the search.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle.search import Generate
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import top_sorted

logger = logging.getLogger(__name__)

_NEVER = np.float32(-1e9)


#: Error where the options do not ask for this search.
NOT_ASKED_FOR = (
    "the model has a decoder of Hugging Face's hub, which ESPnet searches with "
    "hugging_face_decoder: true alone; set it"
)

#: Number of tokens that a hypothesis gets by default.
_NEW_TOKENS = 20


@dataclass(frozen=True)
class GenerateConfig(Generate):
    """The settings of a search."""

    def overridden(self, settings: Mapping[str, Any]) -> GenerateConfig:
        """With what ``hugging_face_decoder_conf`` says.

        Raises:
            PluginError: if it names something else.
        """
        model = {"start", "eos", "prompt", "positions"}
        known = {field.name for field in fields(self)} - model
        for name in settings:
            if name not in known:
                raise PluginError(
                    f"hugging_face_decoder_conf: {name} is not supported (supported: "
                    f"{', '.join(sorted(known))})"
                )
        return replace(self, **settings)

    def limit(self, begun: int) -> int:
        """The length that a hypothesis may get, counting the tokens it begins with.

        Raises:
            PluginError: if that is no more than those.
        """
        if self.max_new_tokens is not None:
            limit = begun + self.max_new_tokens
        elif self.max_length is not None:
            limit = self.max_length
        else:
            limit = min(begun + _NEW_TOKENS, self.positions or begun + _NEW_TOKENS)
        if limit <= begun:
            raise PluginError(
                f"an utterance is {begun} tokens of the decoder's input, of which it "
                f"may have {limit}; raise max_length or set max_new_tokens in "
                "hugging_face_decoder_conf"
            )
        return limit


class HubSearch:
    """Search over a batch of utterances.

    Args:
        config: settings of the search.
        decoder: scores the next token.

    Raises:
        PluginError: if the settings are not of greedy or beam search.
    """

    def __init__(self, config: GenerateConfig, decoder: FullScorer):
        if config.do_sample:
            raise PluginError(
                "do_sample is not supported: it draws tokens at random; set it to "
                "false in hugging_face_decoder_conf"
            )
        self._config = config
        self._decoder = decoder
        #: The scorers that are asked, by name.
        self.scorers = {"decoder": decoder}
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the best token sequence of each utterance, in a list of one.

        Args:
            encoded: the encoder's outputs.
            primers: ignored; hypotheses begin with the configuration's start.
        """
        start = time.perf_counter()
        count = encoded.utterances
        state = self._decoder.start(encoded, [[self._config.start]] * count)
        seconds = time.perf_counter() - start
        begun = np.ones(count, np.int64)
        if self._config.prompt is not None:
            begun = encoded.lengths + self._config.prompt
        utterances = [_Generation(self._config, int(length)) for length in begun]
        running = utterances
        while not all(utterance.done for utterance in running):
            left = [i for i, utterance in enumerate(running) if not utterance.done]
            if len(left) <= len(running) // 2:
                running = [running[i] for i in left]
                state = self._decoder.select(left, state)
            tokens = np.stack([utterance.running[:, -1] for utterance in running])
            parents = np.stack([utterance.parents for utterance in running])
            start = time.perf_counter()
            scores, state = self._decoder.score(tokens, parents, state)
            seconds += time.perf_counter() - start
            for utterance, log_probs in zip(running, scores):
                if not utterance.done:
                    utterance.advance(log_probs)
        self.seconds = {"decoder": seconds}
        # As in ESPnet, these hypotheses have no score.
        return [[Hypothesis(utterance.best.tolist(), 0)] for utterance in utterances]


class _Generation:
    """The search over one utterance.

    Args:
        config: settings of the search.
        begun: how many tokens the hypotheses begin with, counting a prompt's.

    Attributes:
        running: (num_beams, length) tokens of the running hypotheses.
        parents: (num_beams,) the hypothesis of the previous step that each extends.
        done: whether the search is over.
    """

    def __init__(self, config: GenerateConfig, begun: int):
        self._config = config
        self._begun = begun
        self._limit = config.limit(begun)
        beams = config.num_beams
        # As in ESPnet, a prompt is so many start tokens to all that counts tokens.
        self.running = np.full((beams, begun), config.start, np.int64)
        self.parents = np.zeros(beams, np.int64)
        # All of them are one hypothesis yet: the first alone counts.
        self._scores = np.full(beams, _NEVER, np.float32)
        self._scores[0] = 0.0
        self._ended: list[np.ndarray] = [self.running[0]] * beams
        self._ended_scores = np.full(beams, _NEVER, np.float32)
        self._has_ended = np.zeros(beams, bool)
        self._improvable = True
        self.done = False

    @property
    def best(self) -> np.ndarray:
        """(length,) tokens of the result, once ``done``."""
        best = self.running[0] if self._config.num_beams == 1 else self._ended[0]
        return best[self._begun - 1 :]

    def advance(self, log_probs: np.ndarray) -> None:
        """Extend the hypotheses by a token, given (num_beams, vocabulary)."""
        config, length = self._config, self.running.shape[1] + 1
        log_probs = self._processed(log_probs)
        if config.num_beams == 1:
            token = log_probs.argmax(axis=1)
            self.running = np.concatenate((self.running, token[:, None]), axis=1)
            self.done = token[0] in config.eos or length >= self._limit
            return
        beams, vocabulary = log_probs.shape
        total = (log_probs + self._scores[:, None]).ravel()
        # Enough of them to go on with where all that can end do.
        best = top_sorted(total, max(2, 1 + len(config.eos)) * beams)
        parents, tokens = np.divmod(best, vocabulary)
        sequences = np.concatenate((self.running[parents], tokens[:, None]), axis=1)
        ends = np.isin(tokens, config.eos) | (length >= self._limit)
        self._end(total[best], sequences, ends)

        scores = total[best] + ends * _NEVER
        chosen = top_sorted(scores, beams)
        self.running = sequences[chosen]
        self.parents = parents[chosen]
        self._scores = scores[chosen]
        self._improvable &= self._may_improve()
        full = self._has_ended.all() and config.early_stopping is True
        self.done = not self._improvable or full or bool(ends.all())

    def _end(self, scores: np.ndarray, sequences: np.ndarray, ends: np.ndarray) -> None:
        """Keep the best of those that have ended and those that do now."""
        config, beams = self._config, len(self.running)
        ends = ends & (np.arange(len(ends)) < beams)
        penalty = (sequences.shape[1] - self._begun) ** config.length_penalty
        scores = scores / np.float32(penalty)
        full = self._has_ended.all() and config.early_stopping is True
        scores = scores + np.where(ends, np.float32(0.0), _NEVER)
        if full or not self._improvable:
            scores = scores + _NEVER
        merged = np.concatenate((self._ended_scores, scores))
        kept = top_sorted(merged, beams)
        both = [*self._ended, *sequences]
        self._ended = [both[i] for i in kept]
        self._ended_scores = merged[kept]
        self._has_ended = np.concatenate((self._has_ended, ends))[kept]

    def _may_improve(self) -> bool:
        """Whether the best running hypothesis could beat the worst that ended."""
        config, length = self._config, self.running.shape[1]
        if config.early_stopping == "never" and config.length_penalty > 0.0:
            length = self._limit
        penalty = (length - self._begun) ** config.length_penalty
        best = self._scores[0] / np.float32(penalty)
        worst = np.where(self._has_ended, self._ended_scores.min(), _NEVER)
        return bool((best > worst).any())

    def _processed(self, log_probs: np.ndarray) -> np.ndarray:
        """Scores with what the settings forbid or force."""
        config, length = self._config, self.running.shape[1]
        log_probs = log_probs.copy()
        size = config.no_repeat_ngram_size
        if 0 < size <= length:
            for row, sequence in zip(log_probs, self.running):
                row[_repeats(sequence, size)] = -np.inf
        if length < config.min_length:
            log_probs[:, list(config.eos)] = -np.inf
        forced = None
        if length == 1:
            forced = config.forced_bos_token_id
        if length == self._limit - 1 and config.forced_eos_token_id is not None:
            forced = config.forced_eos_token_id
        if forced is not None:
            log_probs[:] = -np.inf
            log_probs[:, forced] = 0.0
        return log_probs


def _repeats(sequence: np.ndarray, size: int) -> list[int]:
    """Tokens that would repeat a run of ``size`` tokens of the sequence."""
    tokens = sequence.tolist()
    start = tokens[len(tokens) + 1 - size :]
    return [
        tokens[i + size - 1]
        for i in range(len(tokens) - size + 1)
        if tokens[i : i + size - 1] == start
    ]
