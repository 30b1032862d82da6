"""Block-synchronous beam search over streams: ESPnet's ``BatchBeamSearchOnline``.

Tsunoo et al., "Streaming Transformer ASR with Blockwise Synchronous Beam Search"
(https://arxiv.org/abs/2006.14941). A block is searched on all frames up to its end, and
left by a hypothesis that ends, or repeats itself, before speech does; the next block
goes on from one step before that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.beam import ranked
from espnet_onnx_plugin.runtime.search.blocks import BlockSearch, Steps
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer
from espnet_onnx_plugin.runtime.search.protocol import Found, Hypothesis, Piece
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.stepper import Running, Searching, Stepper
from espnet_onnx_plugin.runtime.search.utterance import (
    Beam,
    BeamSearchConfig,
    Expander,
)


def check_streaming(search: LabelSynchronous) -> None:
    """Refuse a model that the searches over streams are not for.

    Raises:
        PluginError: naming the reason.
    """
    if search.single:
        raise PluginError(
            f"the {search.single[0]} of the model is not for streams, in ESPnet "
            "either: it scores one hypothesis at a time, and streaming stops at that "
            "(an AssertionError)"
        )
    if search.together:
        raise PluginError(
            f"the {search.together[0]} of the model is not for streams, in ESPnet "
            "either: its streaming commands leave it unprepared (an AttributeError)"
        )


@dataclass(frozen=True)
class OnlineConfig:
    """Settings of a search over streams, in the words of ESPnet's streaming commands.

    Attributes:
        block_size, hop_size, look_ahead: encoder frames. Block n ends ``block_size -
            look_ahead + n * hop_size`` frames from the start. ESPnet's commands take
            40, 16 and 16 whatever the encoder has; only ``st_inference_streaming``
            with ``hugging_face_decoder`` hands on the encoder's block size.
        disable_repetition_detection: whether a block goes on behind a token that its
            hypothesis has already.
        encoded_feat_length_limit: newest frames that are searched; 0: all.
        decoder_text_length_limit: newest tokens that the decoder reads; 0: all.
        incremental_decode: whether one hypothesis alone goes on behind a block.
        hold_n: newest tokens that ``incremental_decode`` leaves open; as in ESPnet, of
            the time-synchronous search alone.
        blank_penalty: factor on the probability of the blank, of that search too.
        nbest: how many results anybody reads: the last block ends where no hypothesis
            that goes on can become one of them any more; 0: all of ESPnet's.
    """

    block_size: int = 40
    hop_size: int = 16
    look_ahead: int = 16
    disable_repetition_detection: bool = False
    encoded_feat_length_limit: int = 0
    decoder_text_length_limit: int = 0
    incremental_decode: bool = False
    hold_n: int = 0
    blank_penalty: float = 1.0
    nbest: int = 0

    def __post_init__(self) -> None:
        if self.block_size <= self.look_ahead or self.hop_size < 1:
            raise PluginError(
                f"blocks of {self.block_size} frames, {self.look_ahead} of them ahead, "
                f"and steps of {self.hop_size} make no search: ESPnet takes 40, 16, 16"
            )

    def end(self, block: int, frames: int, is_final: bool) -> int | None:
        """Where a block ends; None: it is not complete.

        Args:
            block: number from 0 on.
            frames: how many there are so far.
            is_final: whether there are no more.
        """
        end = self.block_size - self.look_ahead + self.hop_size * block
        if end < frames:
            return end
        return frames if is_final else None


@dataclass(frozen=True, eq=False)
class Frames:
    """Encoder frames of a stream, as many of them as blocks can still ask for.

    Without ``encoded_feat_length_limit`` these are all: an hour at 40 ms a frame is
    90,000 of them, 92 MB with 256 dimensions.

    Attributes:
        count: how many the stream had so far.
        encoder_out: (frames, dim), the newest ones.
        log_probs: (frames, vocabulary) of those behind the newest block.
    """

    count: int = 0
    encoder_out: np.ndarray | None = None
    log_probs: np.ndarray | None = None

    def fed(self, piece: Piece[Any]) -> Frames:
        """The frames with those of a piece behind them."""
        return Frames(
            self.count + len(piece.encoder_out),
            joined(self.encoder_out, piece.encoder_out),
            joined(self.log_probs, piece.ctc_log_probs),
        )

    def _first(self, end: int, limit: int) -> int:
        """The first frame of a block, counted in ``encoder_out``."""
        assert self.encoder_out is not None
        size = min(end, limit) if limit else end
        return end - size - (self.count - len(self.encoder_out))

    def window(self, end: int, limit: int) -> Encoded:
        """The decoder's input in a block.

        Args:
            end: where the block ends.
            limit: how many frames it has at most; 0: any number.
        """
        assert self.encoder_out is not None
        first = self._first(end, limit)
        out = self.encoder_out[None, first : len(self.encoder_out) - self.count + end]
        return Encoded(encoder_out=out, encoder_out_lens=np.array([out.shape[1]]))

    def scores(self, end: int) -> np.ndarray:
        """Scores of the CTC from the end of the newest block to that of the next."""
        assert self.log_probs is not None
        return self.log_probs[: len(self.log_probs) - self.count + end]

    def behind(self, end: int, limit: int) -> Frames:
        """The frames that blocks behind one can ask for; see :meth:`window`."""
        assert self.encoder_out is not None
        kept = self.encoder_out[self._first(end, limit) if limit else 0 :]
        log_probs = None
        if self.log_probs is not None:
            log_probs = self.log_probs[len(self.scores(end)) :].copy()
        return Frames(self.count, kept, log_probs)


#: Settings of ESPnet's commands where none are given.
DEFAULTS = OnlineConfig()


def joined(old: np.ndarray | None, new: np.ndarray | None) -> np.ndarray | None:
    """Frames and those behind them."""
    if old is None or new is None:
        return new if old is None else old
    return np.concatenate((old, new))


@dataclass(frozen=True, eq=False)
class OnlineState:
    """The state of a stream under :class:`OnlineBeamSearch`.

    Attributes:
        frames: of the encoder.
        scored: (frames, vocabulary), what the CTC prefix scores look at. Without
            ``encoded_feat_length_limit`` these are all that were searched: with 5,000
            tokens an hour's have 1.8 GB.
        blocks: how many are searched.
        search: as far as it got; None before the first block. The decoder's part grows
            by each token of the hypotheses, and only ``decoder_text_length_limit``
            bounds it.
        output: what the newest block gave.
    """

    frames: Frames = Frames()
    scored: np.ndarray | None = None
    blocks: int = 0
    search: BlockSearch | None = None
    output: Sequence[Hypothesis] = ()


class OnlineBeamSearch:
    """Label-synchronous search over streams, block by block.

    Args:
        config: settings of the search.
        scorers: full scorers by name, in ESPnet's order; those of weight 0 are not
            asked.
        online: settings of the blocks.

    Raises:
        PluginError: for settings with which ESPnet's search breaks down.
    """

    def __init__(
        self,
        config: BeamSearchConfig,
        scorers: Mapping[str, FullScorer],
        online: OnlineConfig = DEFAULTS,
    ):
        self._config = config
        self._online = online
        #: The scorers that are asked, by name.
        self.scorers = {k: s for k, s in scorers.items() if config.weights.get(k)}
        self._use_ctc = bool(config.weights.get("ctc"))
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}
        if online.decoder_text_length_limit:
            self._check_text_limit()

    def _check_text_limit(self) -> None:
        if "decoder" not in self.scorers:
            raise PluginError(
                "decoder_text_length_limit is not for searches without a decoder, "
                "which ESPnet's end in a KeyError: set it to 0"
            )
        if not self.scorers["decoder"].is_tree:
            raise PluginError(
                "decoder_text_length_limit is supported for decoders with "
                "self-attention, which this model's is not: set it to 0"
            )
        for name, scorer in self.scorers.items():
            if name != "decoder" and scorer.is_tree:
                raise PluginError(
                    "decoder_text_length_limit is not for language models that attend "
                    "to tokens before, which ESPnet's search gives too few of (an "
                    "AssertionError): set it to 0, or lm_weight"
                )

    def open(self) -> OnlineState:
        """The state of a stream before its first piece."""
        return OnlineState()

    def running(self, state: OnlineState) -> list[Sequence[int]]:
        """Tokens of the hypotheses that any result will begin with one of."""
        if state.search is None:
            return []
        ended = [one.yseq for one in state.search.ended]
        return [*state.search.running.beam.yseq.tolist(), *ended]

    def feed(self, pieces: Sequence[Piece[OnlineState]]) -> list[Found[OnlineState]]:
        """Search through the blocks of streams that are complete now."""
        stepper = Stepper(self.scorers)
        self.seconds = stepper.seconds
        return stepper.run([self._stream(piece) for piece in pieces])

    def _stream(self, piece: Piece[OnlineState]) -> Searching[Found[OnlineState]]:
        """Search through the blocks of one stream."""
        online, config = self._online, self._config
        state = replace(piece.state, frames=piece.state.frames.fed(piece))
        # As in ESPnet, lengths are bounded by all frames so far, not by the block's.
        frames, is_final = state.frames.count, piece.is_final
        limit = online.encoded_feat_length_limit
        steps = Steps.of(config, frames, config.minlenratio)
        while (end := online.end(state.blocks, frames, is_final)) is not None:
            if not end:
                return Found(self.open(), [])
            final = end == frames
            encoded = state.frames.window(end, limit)
            scored = self._scored(state, end, int(encoded.lengths[0]))
            expander, first = self._expander(scored)
            search = state.search or BlockSearch(Running(first))
            search = yield from search.lengthened(expander.ctc, first).through(
                encoded,
                final,
                expander,
                steps,
                repetitions=not online.disable_repetition_detection,
                detection=True,
                window=online.decoder_text_length_limit,
                nbest=online.nbest if config.scores_fall else 0,
            )
            self.seconds["ctc"] += expander.ctc_seconds
            if final or search.finished:
                output = ranked(config, [*search.ended])
            else:
                output = ranked(config, [*search.newest, *search.ended])
                search = search.rewound()
            if final:
                return Found(self.open(), output)
            if online.incremental_decode:
                running = search.running.keep(np.arange(len(search.running.beam))[:1])
                search = replace(search, running=running)
            search = replace(search, moved=False)
            behind = state.frames.behind(end, limit)
            state = OnlineState(behind, scored, state.blocks + 1, search, output)
        if state.search is not None:
            state = replace(state, search=state.search.resting(self.scorers))
        return Found(state, state.output)

    def _scored(self, state: OnlineState, end: int, size: int) -> np.ndarray | None:
        """The CTC's scores in a block of so many frames.

        As in ESPnet, the CTC keeps those that it has and takes of a window what is
        behind their number: once it has as many as the limit it takes no more, and
        attention alone reads on.
        """
        if not self._use_ctc:
            return None
        known = 0 if state.scored is None else len(state.scored)
        if known == size:
            return state.scored
        missing = state.frames.scores(end)
        return joined(state.scored, missing[len(missing) - (size - known) :])

    def _expander(self, log_probs: np.ndarray | None) -> tuple[Expander, Beam]:
        """The expander of hypotheses on these frames, and the first hypothesis."""
        config, ctc = self._config, None
        start = time.perf_counter()
        if self._use_ctc and log_probs is not None:
            ctc = CTCPrefixScorer(log_probs, config.blank, config.eos, copied=False)
        self.seconds["ctc"] += time.perf_counter() - start
        expander = Expander(config, ctc)
        return expander, expander.start([config.sos], self.scorers)
