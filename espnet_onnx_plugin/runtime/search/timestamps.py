"""Rules for the timestamps of a hypothesis: ESPnet's ``ScoreFilter``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.protocol import Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer


class _Seen(NamedTuple):
    """Facts of hypotheses that the rules go by, each (utterances, hypotheses)."""

    last: np.ndarray  # the newest tokens, (utterances, hypotheses, 3), newest last
    notime: np.ndarray  # whether timestamps are switched off
    odd: np.ndarray  # whether the number of timestamps is
    time: np.ndarray  # the newest timestamp

    def pick(self, index: Any) -> _Seen:
        """State of some of the hypotheses, by an index of numpy."""
        return _Seen(*(value[index] for value in self))


class TimestampRules(FullScorer):
    """A scorer that gives 0 to what may follow a hypothesis, and -inf to the rest.

    Without ``<notimestamps>``, a text stands between two timestamps that do not run
    backwards. As in ESPnet, those of the previous text count as well.

    Args:
        vocabulary: number of tokens.
        notime, first_time, last_time, sos, eos: token ids.
    """

    def __init__(
        self,
        vocabulary: int,
        notime: int,
        first_time: int,
        last_time: int,
        sos: int,
        eos: int,
    ):
        self._vocabulary = vocabulary
        self._notime = notime
        self._first = first_time
        self._last = last_time
        self._sos = sos
        self._eos = eos
        self._untimed = np.zeros(vocabulary, np.float32)
        self._untimed[first_time : last_time + 1] = -np.inf

    def start(self, encoded: Encoded, primers: Primers) -> _Seen:
        """The facts of each utterance's primer less its last token."""
        count = len(primers)
        seen = _Seen(
            np.full((count, 1, 3), -1),
            np.zeros((count, 1), bool),
            np.zeros((count, 1), bool),
            np.zeros((count, 1), np.int64),
        )
        for i, primer in enumerate(primers):
            one = seen.pick(np.s_[i : i + 1])
            for token in primer[:-1]:
                one = self._follow(one, np.array([[token]]))
            for whole, part in zip(seen, one):
                whole[i] = part[0]
        return seen

    def _follow(self, seen: _Seen, tokens: np.ndarray) -> _Seen:
        """State after each hypothesis got a token."""
        is_time = (tokens >= self._first) & (tokens <= self._last)
        return _Seen(
            np.concatenate((seen.last[..., 1:], tokens[..., None]), axis=-1),
            seen.notime | (tokens == self._notime),
            seen.odd ^ is_time,
            np.where(is_time, tokens, seen.time),
        )

    def score(
        self, tokens: np.ndarray, parents: np.ndarray, state: _Seen
    ) -> tuple[np.ndarray, _Seen]:
        """Score all continuations: 0 or -inf."""
        state = self._follow(
            state.pick((np.arange(len(tokens))[:, None], parents)), tokens
        )
        if state.notime.all():
            shape = (*tokens.shape, self._vocabulary)
            return np.broadcast_to(self._untimed, shape), state
        scores = np.zeros((*tokens.shape, self._vocabulary), np.float32)
        for index in np.ndindex(tokens.shape):
            self._forbid(scores[index], state.pick(index))
        return scores, state

    def _forbid(self, row: np.ndarray, seen: _Seen) -> None:
        """Write -inf where a token may not follow one hypothesis."""
        token = seen.last[-1]
        if seen.notime:
            row[:] = self._untimed
        elif seen.last[0] == self._sos:  # behind language and task: a start
            row[: self._first] = -np.inf
            row[self._last + 1 :] = -np.inf
        elif seen.odd:  # inside an utterance
            row[self._eos] = -np.inf
            row[self._first : seen.time + 1] = -np.inf
        elif self._first <= token <= self._last:  # behind one
            row[:token] = -np.inf
            row[self._last + 1 :] = -np.inf
            row[self._eos] = 0.0
        else:
            row[:] = -np.inf

    def select(self, utterances: Sequence[int], state: _Seen) -> _Seen:
        """The facts of some of the utterances."""
        return state.pick(list(utterances))
