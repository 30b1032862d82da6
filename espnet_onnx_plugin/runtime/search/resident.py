"""Extension of hypotheses where their scores lie, on the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.replay import Described, Replay
from espnet_onnx_plugin.runtime.core.runner import Value, shape_of
from espnet_onnx_plugin.runtime.core.values import take, to_numpy
from espnet_onnx_plugin.runtime.search.ctc_graph import (
    F64,
    INT,
    Blocks,
    CTCPlan,
    open_frames,
)
from espnet_onnx_plugin.runtime.search.ctc_prefix import Reach
from espnet_onnx_plugin.runtime.search.protocol import Primers
from espnet_onnx_plugin.runtime.search.resident_graph import (
    RUNNING,
    Part,
    Plan,
    open_step,
)
from espnet_onnx_plugin.runtime.search.utterance import (
    Beam,
    BeamSearchConfig,
    first,
)


class ResidentExpander:
    """Extends the hypotheses of a batch of utterances by a token, on the device.

    Args:
        config: settings of the search.
        encoded: the encoder's outputs.
        memory: onnxruntime's name of where the graphs leave their outputs.
        open_replay: opens a step's graph where its runs are repeated, of one search
            alone; None: they are not.
    """

    def __init__(
        self,
        config: BeamSearchConfig,
        encoded: Encoded,
        memory: str,
        open_replay: Callable[[Plan, str], Replay] | None = None,
    ):
        self._config = config
        self._memory = memory
        self._open_replay = open_replay
        count = encoded.utterances
        #: Place of each running utterance in the batch, and in that of the last step.
        self._utterances: np.ndarray = np.arange(count)
        self._before: np.ndarray = self._utterances
        #: Tokens in the prefixes of each, as the CTC counts them.
        self._lengths: np.ndarray = np.zeros(count, np.int64)
        #: Survivors of each in the step before.
        self._survivors = 1
        self._states: dict[str, Value] = {}
        self._kept: dict[str, Value] = {}
        #: Runs a step on what changes from one to the next.
        self._step: Callable[[Mapping[str, Value]], Mapping[str, Value]] | None = None
        #: Time spent, where CTC prefix scores are a part of the steps.
        self.ctc_seconds = 0.0
        self._uses_ctc = bool(config.weights.get("ctc"))
        if self._uses_ctc:
            start = time.perf_counter()
            self._read(encoded)
            self.ctc_seconds += time.perf_counter() - start

    def _read(self, encoded: Encoded) -> None:
        """Make what all steps read of the CTC's scores, and the first state."""
        config, count = self._config, encoded.utterances
        blocks = Blocks.of(int(encoded.lengths.max()))
        graph = open_frames(
            config.blank,
            config.pre_beam_size is None,
            config.ctc_window_margin > 0,
            self._memory,
        )
        frames = {**blocks.inputs(), "frames": encoded.lengths.astype(np.int64)}
        length = np.array([blocks.frames])
        feeds = {**frames, "length": length, "log_probs": encoded["ctc_log_probs"]}
        made = graph.run(graph.binding(), feeds, ())
        self._states = {"r": made.pop("r"), "psi": np.zeros(count)}
        if config.ctc_window_margin > 0:
            self._states["reach"] = np.tile(np.array([[*Reach()]]), (count, 1))
        self._kept = {**frames, **made}

    def start(self, primers: Primers, scorers: Collection[str]) -> list[Beam]:
        """The hypothesis that the search over each utterance begins with."""
        if self._config.conventions.ctc_counts_primer:
            self._lengths = np.array([len(primer) - 1 for primer in primers])
        return [first(self._config, primer, scorers) for primer in primers]

    def select(self, utterances: Sequence[int]) -> None:
        """Go on with some of the utterances."""
        ids = list(utterances)
        self._utterances, self._before = self._utterances[ids], self._before[ids]
        self._lengths = self._lengths[ids]
        if "probs" in self._kept:
            self._kept["probs"] = take(self._kept["probs"], ids)
        self._step = None

    def extend(
        self,
        beams: Sequence[Beam | None],
        tokens: np.ndarray,
        parts: Mapping[str, Value],
    ) -> list[Beam | None]:
        """Every hypothesis by every token, the best ones of each utterance, best first.

        Args:
            beams: the running hypotheses of each utterance; None of one that is over.
            tokens: (utterances, hypotheses) their last tokens.
            parts: of each full scorer (utterances, hypotheses, vocabulary), or on the
                device (utterances * hypotheses, vocabulary).
        """
        start = time.perf_counter()
        step = self._step = self._step or self._bind(parts)
        feeds = dict(self._states)
        for name, scores in parts.items():
            feeds[name] = compact(scores) if isinstance(scores, np.ndarray) else scores
        feeds["running"] = self._running(beams, tokens)
        made = step(feeds)
        self._states = {name: made[f"next_{name}"] for name in self._states}
        self._survivors = self._config.beam_size
        self._before = np.arange(len(beams))
        self._lengths = self._lengths + 1
        if self._uses_ctc:
            self.ctc_seconds += time.perf_counter() - start
        return self._extended(beams, parts, to_numpy(made["survivors"]))

    def _bind(
        self, parts: Mapping[str, Value]
    ) -> Callable[[Mapping[str, Value]], Mapping[str, Value]]:
        """The graph of a step with its inputs that stay the same."""
        config, ctc = self._config, None
        if self._uses_ctc:
            margin = max(config.ctc_window_margin, 0)
            ctc = CTCPlan(
                config.weights["ctc"],
                config.vocabulary,
                config.blank,
                config.eos,
                config.beam_size,
                config.pre_beam_size is None,
                margin,
            )
        plan = Plan(
            config.vocabulary,
            config.eos,
            config.beam_size,
            config.pre_beam_size if self._uses_ctc else None,
            config.end_is_candidate,
            tuple(
                Part(name, config.weights[name], not isinstance(scores, np.ndarray))
                for name, scores in parts.items()
            ),
            ctc,
        )
        self._kept["utterances"] = self._utterances
        if self._open_replay is None:
            runner = open_step(plan, self._memory)
            binding = runner.binding(self._kept)
            return lambda feeds: runner.run(binding, feeds, ("survivors",))
        replay = self._open_replay(plan, self._memory)
        kept = self._kept = replay.settle(self._kept)
        self._states = replay.settle(self._states)
        described = self._described(plan)
        return lambda feeds: replay.run({**kept, **feeds}, described)

    def _described(self, plan: Plan) -> dict[str, Described]:
        """dtypes and shapes of what a step gives; see :func:`open_step`."""
        count, beam = len(self._utterances), plan.beam
        told = 3 + sum(part.resident for part in plan.parts) + self._uses_ctc
        shapes: dict[str, Described] = {"survivors": (F64, (told, count, beam))}
        if plan.ctc is not None:
            frames = shape_of(self._kept["time"])[0]
            shapes["next_r"] = F64, (count * beam, 2, frames)
            shapes["next_psi"] = F64, (count * beam,)
            if plan.ctc.margin:
                shapes["next_reach"] = INT, (count, 2)
        return shapes

    def _running(self, beams: Sequence[Beam | None], tokens: np.ndarray) -> np.ndarray:
        """The inputs of a step that are known here; see :data:`RUNNING`."""
        running = np.empty((len(RUNNING), *tokens.shape))
        score, last, place, length = running
        score[:] = -np.inf
        last[:] = tokens
        place[:] = self._before[:, None] * self._survivors
        length[:] = self._lengths[:, None]
        for i, beam in enumerate(beams):
            if beam is not None:
                count = len(beam)
                score[i, :count] = beam.score
                place[i, :count] += beam.ranks
                # Rows of no hypothesis are as far in the frames as the first one.
                place[i, count:] += beam.ranks[0]
        return running

    def _extended(
        self,
        beams: Sequence[Beam | None],
        parts: Mapping[str, Value],
        survivors: np.ndarray,
    ) -> list[Beam | None]:
        """The survivors of each utterance."""
        parents, tokens = survivors[:2].astype(np.int64)
        total, *given = survivors[2:].astype(np.float32)
        order = np.arange(len(beams))[:, None]
        resident = iter(given)
        by_scorer = [
            (
                scores[order, parents, tokens]
                if isinstance(scores, np.ndarray)
                else next(resident)
            )
            for scores in parts.values()
        ]
        chosen = np.stack((*by_scorer, *resident), axis=2)
        extended = zip(beams, parents, tokens, total, chosen)
        return [beam and beam.extended(*each) for beam, *each in extended]


def compact(array: np.ndarray) -> np.ndarray:
    """An array as small as it broadcasts from."""
    once = tuple(slice(None if stride else 1) for stride in array.strides)
    return np.ascontiguousarray(array[once])
