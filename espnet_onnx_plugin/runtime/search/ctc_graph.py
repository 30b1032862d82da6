"""CTC prefix scores as nodes of a graph, for scores that stay on a device.

The arithmetic is that of :mod:`.ctc_prefix`, in double precision, for all utterances of
a batch at once: (U, H) are prefixes, S candidates of each, T frames, V tokens, B
survivors of each utterance. What differs: the forward variables of the survivors are a
running sum over the frames of blocks, then over blocks, instead of frame by frame; and
frames that an utterance or the window does not have are masked. A prefix keeps phi, up
to each frame, and the part of it that ends in a blank.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.runtime.core.graph_writer import GraphWriter
from espnet_onnx_plugin.runtime.core.runner import Runner
from espnet_onnx_plugin.runtime.core.values import open_written
from espnet_onnx_plugin.runtime.search.ctc_prefix import LOGZERO, WINDOW_TOKENS

F32, F64, INT = np.float32, np.float64, np.int64

#: Frames that are left out: less than any score, and finite, as LOGZERO is.
MASKED = -1e30

#: Products that may have lost their small terms; see ``CTCPrefixScorer``.
TINY = 1e-280


class CTCPlan(NamedTuple):
    """All that the nodes depend on.

    Attributes:
        weight: of the scores.
        vocabulary: number of tokens.
        blank, eos: token ids.
        beam: number of survivors of each utterance.
        everything: whether every token is a candidate.
        margin: of the window; 0: there is none.
    """

    weight: float
    vocabulary: int
    blank: int
    eos: int
    beam: int
    everything: bool
    margin: int


class PrefixScores:
    """CTC prefix scores, node by node.

    Args:
        graph: that is written.
        plan: of the scores.
        last: (U, H) last tokens of the hypotheses; of the empty prefix, which has
            blanks alone, any one.
        places: (U, H) row of each hypothesis among the survivors of the step before.
        length: (U, H) tokens in each prefix.
    """

    def __init__(
        self,
        graph: GraphWriter,
        plan: CTCPlan,
        last: str,
        places: str,
        length: str,
    ):
        self._graph, self._plan = graph, plan
        self._last, self._places = last, places
        self._by_token = graph.input("by_token", F32)
        self._time = graph.input("time", INT)
        utterances = graph.input("utterances", INT)
        frames = graph.Gather(graph.input("frames", INT), utterances)
        self._frames = graph.Unsqueeze(frames, [1])  # (U, 1)
        self._blank_sums = graph.Gather(graph.input("blank_sums", F64), utterances)
        first_rows = graph.Mul(utterances, plan.vocabulary)
        self._first_rows = graph.Unsqueeze(first_rows, [1])
        self._r = graph.input("r", F64)
        self._phi, blanks = self._of_prefixes(places)
        one = graph.Slice(length, [0], [1], [1])
        self._first, self._end = graph.Max(one, 1), self._frames  # (U, 1)
        if plan.margin:
            self._find_window(utterances)
        self._within = graph.And(
            graph.GreaterOrEqual(self._time, self._first),
            graph.Less(self._time, self._end),
        )  # (U, T)
        # The first token may start in the first frame, which is within no window.
        self._is_first = graph.Unsqueeze(graph.Equal(length, 0), [2])  # (U, H, 1)
        starts = graph.And(self._is_first, graph.Equal(self._time, 0))
        start = graph.Where(starts, F64(0), F64(MASKED))
        # (U, H, T): the frame before each, of the prefix and of its blank-ended part.
        within = graph.Unsqueeze(self._within, [1])
        self._before, self._blank_before = (
            graph.Where(within, self._frame_before(x), start)
            for x in (self._phi, blanks)
        )

    def _of_prefixes(self, places: str) -> tuple[str, str]:
        """(U, H, T) phi of prefixes in the state, and the part that ends in a blank."""
        graph = self._graph
        r = graph.Gather(self._r, places)  # (U, H, 2, T)
        phi, blanks = graph.split(r, 2, axis=2)
        return graph.Squeeze(phi, [2]), graph.Squeeze(blanks, [2])

    def _log_add(self, a: str, b: str) -> str:
        """Logarithm of the sum of two exponentials, in five launches."""
        graph = self._graph
        high, low = graph.Max(a, b), graph.Min(a, b)
        return graph.Add(high, graph.Softplus(graph.Sub(low, high)))

    def _frame_before(self, x: str) -> str:
        """(rows, rows, T) values of the frame before, and of the first one its own."""
        graph = self._graph
        return graph.Gather(x, graph.input("earlier", INT), axis=2)

    def _find_window(self, utterances: str) -> None:
        """First frame and end of what a step looks at; see ``CTCPrefixScorer``."""
        graph, margin = self._graph, self._plan.margin
        exists = graph.Unsqueeze(graph.Less(self._time, self._frames), [1])
        phi = graph.Where(exists, graph.cast(self._phi, F32), F32(-np.inf))
        _, peaks = graph.top(phi, 1)  # (U, H, 1)
        of_utterance = graph.Gather(self._places, 0, axis=1)
        rows = graph.Div(of_utterance, self._plan.beam)
        before = graph.Gather(graph.input("reach", INT), rows)  # (U, 2)
        least = graph.Max(
            graph.ReduceMin(peaks, [1], keepdims=0), graph.Slice(before, [0], [1], [1])
        )
        most_before = graph.Slice(before, [1], [2], [1])
        most = graph.Max(graph.ReduceMax(peaks, [1], keepdims=0), most_before)
        graph.output("next_reach", graph.Concat(least, most, axis=1), INT)
        first = graph.Max(graph.Sub(least, margin), self._first)
        self._first = graph.Min(most_before, first)
        # It goes on to the tokens behind a silence.
        heard = graph.Gather(graph.input("heard", INT), utterances)  # (U, T)
        end = graph.Add(most, margin + 1)
        wanted = graph.Add(self._at(most, heard), WINDOW_TOKENS)
        exists = graph.Less(self._time, self._frames)
        fewer = graph.cast(graph.And(graph.Less(heard, wanted), exists), INT)
        reached = graph.Min(
            graph.ReduceSum(fewer, [1], keepdims=1), graph.Sub(self._frames, 1)
        )
        longer = graph.Max(end, graph.Add(reached, 1))
        end = graph.Where(graph.Less(end, self._frames), longer, end)
        self._end = graph.Min(end, self._frames)

    def _at(self, time: str, x: str) -> str:
        """(U, 1) values of x (U, T) in one frame of each utterance."""
        graph = self._graph
        zero = F64(0) if x is self._blank_sums else INT(0)
        chosen = graph.Where(graph.Equal(self._time, time), x, zero)
        return graph.ReduceSum(chosen, [1], keepdims=1)

    def _at_rows(self, time: str, x: str) -> str:
        """(U, rows, 1) values of x (U, rows, T) in one frame of each utterance."""
        graph = self._graph
        here = graph.Unsqueeze(graph.Equal(self._time, time), [1])
        return graph.ReduceSum(graph.Where(here, x, F64(0)), [2], keepdims=1)

    def _log_probs(self, tokens: str, axes: Sequence[int]) -> str:
        """(*tokens, T) log probabilities of tokens (U, ...), of so many axes more."""
        graph = self._graph
        rows = self._first_rows
        if axes:
            rows = graph.Unsqueeze(rows, axes)
        return graph.cast(graph.Gather(self._by_token, graph.Add(rows, tokens)), F64)

    def score(self, ids: str) -> str:
        """(U, H, S) log probabilities psi of the prefixes with each candidate."""
        graph, plan = self._graph, self._plan
        scores = self._of_all(ids) if plan.everything else self._of_some(ids)
        is_there = graph.Unsqueeze(graph.Less(self._first, self._end), [2])
        is_there = graph.Or(is_there, self._is_first)
        scores = graph.Where(is_there, scores, F64(LOGZERO))
        if plan.blank != plan.eos:
            scores = graph.Where(graph.Equal(ids, plan.blank), F64(LOGZERO), scores)
        ended = self._at_rows(graph.Sub(self._frames, 1), self._phi)
        return graph.Where(graph.Equal(ids, plan.eos), ended, scores)

    def _of_some(self, ids: str) -> str:
        """Scores of some tokens (U, H, S) of each hypothesis."""
        graph = self._graph
        # A candidate that repeats the last token needs a blank in between.
        repeats = graph.Equal(ids, graph.Unsqueeze(self._last, [2]))
        before = graph.Where(
            graph.Unsqueeze(repeats, [3]),
            graph.Unsqueeze(self._blank_before, [2]),
            graph.Unsqueeze(self._before, [2]),
        )
        terms = graph.Add(self._log_probs(ids, [2]), before)
        return graph.ReduceLogSumExp(terms, [3], keepdims=0)

    def _of_all(self, ids: str) -> str:
        """Scores of the whole vocabulary (1, 1, V) after each hypothesis."""
        graph = self._graph
        peak = graph.ReduceMax(self._before, [2], keepdims=1)
        share = graph.Exp(graph.Sub(self._before, peak))
        product = graph.MatMul(share, graph.input("probs", F64))
        scores = graph.Add(graph.Log(product), peak)
        # Where the product may have lost its small terms: (3, K), one column for each.
        tiny = graph.NonZero(graph.Less(product, F64(TINY)))
        utterance, token = graph.Gather(tiny, 0), graph.Gather(tiny, 2)
        rows = graph.Gather(graph.Squeeze(self._first_rows, [1]), utterance)
        log_probs = graph.Gather(self._by_token, graph.Add(rows, token))
        tiny = graph.Transpose(tiny, perm=[1, 0])
        before = graph.GatherND(self._before, graph.Slice(tiny, [0], [2], [1]))
        terms = graph.Add(graph.cast(log_probs, F64), before)
        exact = graph.ReduceLogSumExp(terms, [1], keepdims=0)
        scores = graph.ScatterND(scores, tiny, exact)
        log_probs = self._log_probs(self._last, [])
        terms = graph.Add(log_probs, self._blank_before)
        again = graph.ReduceLogSumExp(terms, [2], keepdims=1)
        repeats = graph.Equal(ids, graph.Unsqueeze(self._last, [2]))
        return graph.Where(repeats, again, scores)

    def extend(self, parents: str, tokens: str) -> None:
        """Give the forward variables of the survivors (U, B)."""
        graph = self._graph
        places = graph.GatherElements(self._places, parents, axis=1)
        last = graph.GatherElements(self._last, parents, axis=1)
        phi, ended = self._of_prefixes(places)  # (U, B, T)
        repeats = graph.Unsqueeze(graph.Equal(tokens, last), [2])
        source = graph.Where(repeats, ended, phi)
        sums = graph.CumSum(self._log_probs(tokens, []), 2)
        start_time = graph.Sub(self._first, 1)
        # (U, 1, T): the frames in which the hypotheses can be, and the one before.
        within = graph.Unsqueeze(self._within, [1])
        start = graph.Unsqueeze(graph.Equal(self._time, start_time), [1])
        known = graph.Or(within, start)
        is_first = graph.Slice(self._is_first, [0], [1], [1])  # (U, 1, 1)
        begun = graph.Where(is_first, F64(0), graph.Sub(F64(LOGZERO), sums))
        r_n = self._accumulated(source, sums, within, known, begun)
        blanks = graph.Unsqueeze(self._blank_sums, [1])
        begun = graph.Sub(F64(LOGZERO), blanks)
        r_b = self._accumulated(r_n, blanks, within, known, begun)
        phi = self._log_add(r_n, r_b)
        if self._plan.margin:
            phi, r_b = self._silent_behind(phi, r_b)
        r = graph.Concat(graph.Unsqueeze(phi, [2]), graph.Unsqueeze(r_b, [2]), axis=2)
        shape = graph.input("rows_shape", INT)
        graph.output("next_r", graph.Reshape(r, shape), F64)

    def _silent_behind(self, phi: str, r_b: str) -> tuple[str, str]:
        """phi and r_b where behind the window a prefix can but stay silent."""
        graph = self._graph
        last = graph.Sub(self._end, 1)
        edge = self._at_rows(last, phi)  # (U, B, 1)
        silence = graph.Sub(self._blank_sums, self._at(last, self._blank_sums))
        silent = graph.Max(graph.Add(edge, graph.Unsqueeze(silence, [1])), F64(LOGZERO))
        behind = graph.And(
            graph.GreaterOrEqual(self._time, self._end),
            graph.Less(self._first, self._end),
        )
        behind = graph.Unsqueeze(behind, [1])
        phi, r_b = (graph.Where(behind, silent, x) for x in (phi, r_b))
        return phi, r_b

    def _accumulated(
        self, source: str, sums: str, within: str, known: str, begun: str
    ) -> str:
        """(U, B, T): r(t) = logaddexp(r(t-1), source(t-1)) + log p_t.

        Args:
            source: (U, B, T).
            sums: (U, B or 1, T) of log p up to each frame.
            within: (U, 1, T) frames that this is worked out in.
            known: (U, 1, T) these frames and the one before them.
            begun: (U, B, T), r less the sums in that one.
        """
        graph = self._graph
        terms = self._frame_before(graph.Sub(source, sums))
        terms = graph.Where(within, terms, graph.Where(known, begun, F64(MASKED)))
        total = graph.Add(self._running_sum(terms), sums)
        return graph.Where(known, graph.Max(total, F64(LOGZERO)), F64(LOGZERO))

    def _running_sum(self, terms: str) -> str:
        """(U, B, T) logarithm of the sum of exponentials up to each frame."""
        graph = self._graph
        blocks = graph.Reshape(terms, graph.input("blocks_shape", INT))
        up_to = graph.input("up_to", F64)  # 0 up to a frame, MASKED behind it
        before = graph.input("before", F64)  # likewise, 0 before a block
        inside = graph.ReduceLogSumExp(
            graph.Add(graph.Unsqueeze(blocks, [3]), up_to), [4], keepdims=0
        )
        totals = graph.Unsqueeze(graph.Gather(inside, -1, axis=3), [2])
        ahead = graph.ReduceLogSumExp(graph.Add(totals, before), [3], keepdims=0)
        both = self._log_add(inside, graph.Unsqueeze(ahead, [3]))
        return graph.Reshape(both, [0, 0, -1])


@functools.lru_cache(maxsize=None)
def open_frames(blank: int, everything: bool, window: bool, memory: str) -> Runner:
    """The graph of what all steps read of the CTC's scores (U, T, V).

    Args:
        blank: token id.
        everything: whether steps score the whole vocabulary.
        window: whether they look through a window.
        memory: where it stays.
    """
    graph = GraphWriter()
    log_probs = graph.input("log_probs", F32)
    frames = graph.input("frames", INT)
    length = graph.input("length", INT)
    # The encoder may have given frames behind the longest utterance.
    log_probs = graph.Slice(log_probs, [0], length, [1])
    missing = graph.Sub(length, graph.Shape(log_probs, start=1, end=2))
    log_probs = graph.Pad(log_probs, graph.Concat([0], missing, axis=0), F32(0), [1])
    time = graph.input("time", INT)
    exists = graph.Less(time, graph.Unsqueeze(frames, [1]))
    # Nothing of what the encoder gives behind an utterance's end is read.
    by_frame = graph.Where(graph.Unsqueeze(exists, [2]), log_probs, F32(0))
    by_token = graph.Transpose(by_frame, perm=[0, 2, 1])
    blanks = graph.cast(graph.Gather(by_token, blank, axis=1), F64)
    sums = graph.CumSum(blanks, 1)
    graph.output("blank_sums", sums, F64)
    shape = graph.Concat([-1], graph.Shape(time), axis=0)
    graph.output("by_token", graph.Reshape(by_token, shape), F32)
    sums = graph.Unsqueeze(sums, [1])
    graph.output("r", graph.Concat(sums, sums, axis=1), F64)
    if everything:
        graph.output("probs", graph.Exp(graph.cast(by_frame, F64)), F64)
    if window:
        _, best = graph.top(by_frame, 1)
        is_token = graph.Not(graph.Equal(graph.Squeeze(best, [2]), blank))
        heard = graph.And(is_token, exists)
        graph.output("heard", graph.CumSum(graph.cast(heard, INT), 1), INT)
    return open_written(graph, memory, "frames of the search")


class Blocks(NamedTuple):
    """How frames are parted to be summed up.

    Attributes:
        size, number: of the blocks.
    """

    size: int
    number: int

    @staticmethod
    def of(frames: int) -> Blocks:
        """As many blocks as each has frames."""
        size = int(np.ceil(np.sqrt(frames)))
        return Blocks(size, -(-frames // size))

    @property
    def frames(self) -> int:
        """Number of frames of all blocks."""
        return self.size * self.number

    def inputs(self) -> dict[str, np.ndarray]:
        """Inputs of a step's graph."""
        return {
            "time": np.arange(self.frames),
            "earlier": np.maximum(np.arange(self.frames) - 1, 0),
            "rows_shape": np.array([-1, 2, self.frames]),
            "blocks_shape": np.array([0, 0, self.number, self.size]),
            "up_to": np.where(np.tri(self.size), 0.0, MASKED),
            "before": np.where(np.tri(self.number, k=-1), 0.0, MASKED),
        }
