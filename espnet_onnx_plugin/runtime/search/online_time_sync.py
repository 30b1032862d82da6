"""Time-synchronous search over streams: ESPnet's ``BeamSearchTimeSyncStreaming``, which
``st_inference_streaming`` takes with ``time_sync: true``.

It goes from frame to frame as :mod:`.time_sync` does. The decoder's scores of a prefix
are made again in each block that asks for them, with all frames up to the block's end;
those of what comes before the prefix stay as the block found them, unless it asked for
them earlier. What it asks for first is up to the order of a Python set of prefixes,
which is the same here.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.online import DEFAULTS, Frames, OnlineConfig
from espnet_onnx_plugin.runtime.search.protocol import Found, Hypothesis, Piece
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.time_sync import (
    Forward,
    Prefix,
    TimeSyncSearch,
    advance,
    candidates,
    log_best,
)
from espnet_onnx_plugin.runtime.search.utterance import BeamSearchConfig

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Known:
    """A prefix under a scorer.

    Attributes:
        parent: the prefix without its last token, until the scores are made.
        token: that token.
        log_probs: (vocabulary,) of the next token; None: they are still to be made.
        total: of the prefix's own tokens.
        state, row: of the batch that it was scored in, and its row there.
    """

    parent: _Known | None
    token: int
    log_probs: np.ndarray | None = None
    total: float = 0.0
    state: Any = None
    row: int = 0

    def score(self, token: int) -> float:
        """Log probability of the prefix with one more token."""
        assert self.log_probs is not None
        return self.total + float(self.log_probs[token])


class BlockScores:
    """Scores of prefixes under one full scorer, in one block of a stream.

    Args:
        scorer: scores tokens.
        encoded: all frames up to the block's end.
        known: prefixes that the blocks before have left, see :meth:`left`.
        sos: the start symbol.
        again: whether a prefix of the blocks before is scored again. That of the start
            symbol alone never is.
    """

    def __init__(
        self,
        scorer: FullScorer,
        encoded: Encoded,
        known: Mapping[Prefix, _Known],
        sos: int,
        again: bool,
    ):
        self._scorer = scorer
        self._known = dict(known)
        first: Prefix = (sos,)
        if first not in self._known:
            state = scorer.start(encoded, [first])
            self._known[first] = _Known(None, sos)
            self._score([self._known[first]], [0], state)
        self._projected = scorer.project(encoded)
        self._fresh = {first} if again else set(self._known)
        #: States of the blocks before, by what they rest in.
        self._resumed: dict[int, Any] = {}
        self._resting = {id(one.state) for one in known.values()}

    def prepare(self, prefixes: Iterable[Prefix]) -> None:
        """Score prefixes that were not yet, in this order; their parents have been."""
        waiting = []
        for prefix in prefixes:
            if prefix not in self._fresh:
                made = _Known(self._known[prefix[:-1]], prefix[-1])
                self._known[prefix] = made
                self._fresh.add(prefix)
                waiting.append(made)
        while waiting:
            batches = defaultdict(list)
            later = []
            for one in waiting:
                assert one.parent is not None
                if one.parent.log_probs is None:
                    later.append(one)
                else:
                    batches[id(one.parent.state)].append(one)
            for batch in batches.values():
                parents = [one.parent for one in batch if one.parent is not None]
                for one, parent in zip(batch, parents):
                    one.total, one.parent = parent.score(one.token), None
                rows = [parent.row for parent in parents]
                self._score(batch, rows, self._state(parents[0].state))
            waiting = later

    def _state(self, state: Any) -> Any:
        """A state that knows the frames of this block."""
        if id(state) not in self._resting:
            return state
        if id(state) not in self._resumed:
            resumed = self._scorer.resume([state], self._projected)
            self._resumed[id(state)] = resumed
        return self._resumed[id(state)]

    def _score(self, batch: Sequence[_Known], rows: Sequence[int], state: Any) -> None:
        tokens = np.array([[one.token for one in batch]])
        scores, state = self._scorer.score(tokens, np.array([rows]), state)
        for row, one in enumerate(batch):
            one.log_probs, one.state, one.row = scores[0, row], state, row

    def __getitem__(self, prefix: Prefix) -> float:
        """Log probability of a prefix; :meth:`prepare` has seen its parent."""
        return self._known[prefix[:-1]].score(prefix[-1])

    def left(self, prefixes: Iterable[Prefix]) -> dict[Prefix, _Known]:
        """Scores that the next block needs for the running prefixes, as plain data."""
        first, *_ = self._known
        kept = {first, *(p[: len(p) - n] for p in prefixes for n in range(3))}
        resting: dict[int, Any] = {}
        left = {}
        for prefix, known in self._known.items():
            if prefix in kept:
                state = known.state
                if id(state) not in self._resting and id(state) not in resting:
                    resting[id(state)] = self._scorer.rest(state, 0)
                state = resting.get(id(state), state)
                left[prefix] = replace(known, state=state)
        return left


@dataclass(frozen=True, eq=False)
class TimeSyncState:
    """The state of a stream under :class:`OnlineTimeSyncSearch`.

    Attributes:
        frames: of the encoder. All of them stay: nothing bounds them, see
            :class:`.online.Frames`.
        blocks: how many are searched.
        prefixes: the running ones, best first.
        forward: log forward variables of what the newest frame reached.
        known: prefixes by scorer.
        output: what the newest block gave.
    """

    frames: Frames = Frames()
    blocks: int = 0
    prefixes: Sequence[Prefix] = ()
    forward: Mapping[Prefix, Forward] = field(default_factory=dict)
    known: Mapping[str, Mapping[Prefix, _Known]] = field(default_factory=dict)
    output: Sequence[Hypothesis] = ()


class OnlineTimeSyncSearch(TimeSyncSearch):
    """Time-synchronous search over one stream after the other; arguments as of
    ``OnlineBeamSearch``.

    Raises:
        PluginError: for settings with which ESPnet's search breaks down.
    """

    def __init__(
        self,
        config: BeamSearchConfig,
        scorers: Mapping[str, FullScorer],
        online: OnlineConfig = DEFAULTS,
    ):
        super().__init__(config, scorers)
        self._online = online
        if online.encoded_feat_length_limit:
            raise PluginError(
                "encoded_feat_length_limit is not for time_sync, which behind so many "
                "frames ends in an UnboundLocalError in ESPnet: set it to 0"
            )
        with np.errstate(divide="ignore"):
            self._blank_bonus = float(np.log(online.blank_penalty))

    def open(self) -> TimeSyncState:
        """The state of a stream before its first piece."""
        first = (self._config.sos,)
        return TimeSyncState(prefixes=[first], forward={first: (-math.inf, 0.0)})

    def running(self, state: TimeSyncState) -> list[Sequence[int]]:
        """Tokens of the running prefixes, best first."""
        return [list(prefix) for prefix in state.prefixes]

    def feed(
        self, pieces: Sequence[Piece[TimeSyncState]]
    ) -> list[Found[TimeSyncState]]:
        """Search through the blocks of streams that are complete now."""
        self.seconds = dict.fromkeys(self.scorers, 0.0)
        return [self._stream(piece) for piece in pieces]

    def _stream(self, piece: Piece[TimeSyncState]) -> Found[TimeSyncState]:
        """Search through the blocks of one stream."""
        state = replace(piece.state, frames=piece.state.frames.fed(piece))
        count = state.frames.count
        while (
            end := self._online.end(state.blocks, count, piece.is_final)
        ) is not None:
            if not end:
                break
            final = end == count
            state = self._block(state, end, final)
            if final:
                return Found(self.open(), state.output)
        return Found(state, state.output)

    def _block(self, state: TimeSyncState, end: int, final: bool) -> TimeSyncState:
        """Search through a block."""
        config = self._config
        logger.info("decoder input lengths: %d", end)
        encoded = state.frames.window(end, 0)
        scores = {
            name: BlockScores(
                scorer,
                encoded,
                state.known.get(name, {}),
                config.sos,
                again=name == "decoder",
            )
            for name, scorer in self.scorers.items()
        }
        prefixes, forward = list(state.prefixes), dict(state.forward)
        totals: dict[Prefix, float] = {}
        for frame in state.frames.scores(end):
            tokens = set(candidates(frame, config.beam_size))
            forward, reached = advance(
                frame, tokens, prefixes, forward, config.blank, self._blank_bonus
            )
            competing: set[Prefix] = set()
            for prefix in reached:  # one by one: how a set was filled orders it
                competing.add(prefix)
            totals = self._joint(list(competing), forward, scores)
            prefixes = sorted(totals, key=totals.__getitem__, reverse=True)
            prefixes = prefixes[: config.beam_size]
        found = prefixes
        if self._online.incremental_decode:
            open_tokens = 0 if final else self._online.hold_n
            best = prefixes[0]
            shown = best[: max(0, len(best) - open_tokens)] or best
            prefixes = [best] + [
                p for p in prefixes[1:] if len(p) > len(shown) and _begins(p, shown)
            ]
            found = [shown]
            totals[shown] = totals[best]
        output = [Hypothesis([*p, config.sos], totals[p]) for p in found]
        log_best(config, output[0])
        left = {name: known.left(prefixes) for name, known in scores.items()}
        return TimeSyncState(
            state.frames.behind(end, 0),
            state.blocks + 1,
            prefixes,
            forward,
            left,
            output,
        )


def _begins(prefix: Prefix, with_these: Prefix) -> bool:
    return prefix[: len(with_these)] == with_these
