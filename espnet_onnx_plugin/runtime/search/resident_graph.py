"""A step of the label-synchronous search as a graph, for scores that stay on a device.

The arithmetic is that of :class:`~.utterance.Expander`, for all utterances of a batch
at once: (U, H) are running hypotheses, S candidates of each, V tokens, B survivors of
each utterance. A row that is no hypothesis has a running score of minus infinity.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.runtime.core.graph_writer import GraphWriter
from espnet_onnx_plugin.runtime.core.replay import Replay
from espnet_onnx_plugin.runtime.core.runner import Runner
from espnet_onnx_plugin.runtime.core.values import open_written
from espnet_onnx_plugin.runtime.search.ctc_graph import (
    F32,
    F64,
    INT,
    CTCPlan,
    PrefixScores,
)

#: Rows of the input "running", which is what the host knows of each hypothesis.
RUNNING = ("score", "last", "place", "length")


class Part(NamedTuple):
    """A full scorer.

    Attributes:
        name: of the scorer.
        weight: of its scores.
        resident: whether they lie on the device.
    """

    name: str
    weight: float
    resident: bool


class Plan(NamedTuple):
    """All that the graph of a step depends on.

    Attributes:
        vocabulary: number of tokens.
        eos: token id.
        beam: number of survivors.
        pre_beam: number of candidates; None: all tokens.
        end_is_candidate: whether the end symbol always is one.
        parts: the full scorers, in ESPnet's order.
        ctc: None: without.
    """

    vocabulary: int
    eos: int
    beam: int
    pre_beam: int | None
    end_is_candidate: bool
    parts: tuple[Part, ...]
    ctc: CTCPlan | None


def _write_step(plan: Plan) -> GraphWriter:
    graph = GraphWriter()
    running = graph.input("running", F64)
    score = graph.cast(graph.Gather(running, 0), F32)
    ids = graph.cast(graph.Slice(running, [1], [len(RUNNING)], [0]), INT)
    last, places, length = (
        graph.Squeeze(row, [0]) for row in graph.split(ids, len(RUNNING) - 1, axis=0)
    )
    total, resident = None, {}
    rows = graph.Concat(graph.Shape(score), [-1], axis=0)
    for part in plan.parts:
        scores = graph.input(part.name, F32)
        if part.resident:
            scores = graph.Reshape(scores, rows)  # (U, H, V)
            resident[part.name] = scores
        weighted = graph.Mul(scores, F32(part.weight))
        total = weighted if total is None else graph.Add(total, weighted)
    if total is None or not resident:  # a few numbers may stand for all
        shape = graph.Concat(graph.Shape(score), [plan.vocabulary], axis=0)
        total = graph.Expand(F32(0) if total is None else total, shape)
    ids = graph.constant(np.arange(plan.vocabulary).reshape(1, 1, -1))
    if plan.pre_beam is not None:
        ids, total = _candidates(graph, plan, total)
    prefixes = None
    if plan.ctc is not None:
        prefixes = PrefixScores(graph, plan.ctc, last, places, length)
        psi = prefixes.score(ids)
        psi_before = graph.Gather(graph.input("psi", F64), places)
        ctc = graph.Sub(psi, graph.Unsqueeze(psi_before, [2]))
        ctc = graph.cast(ctc, F32)
        total = graph.Add(total, graph.Mul(ctc, F32(plan.ctc.weight)))
    total = graph.Add(total, graph.Unsqueeze(score, [2]))

    flat = [0, -1]
    best, places = graph.top(graph.Reshape(total, flat), plan.beam)  # (U, B)
    count = plan.vocabulary
    if plan.pre_beam is not None:
        count = plan.pre_beam + plan.end_is_candidate
    parents, columns = graph.Div(places, count), graph.Mod(places, count)
    tokens = columns
    if plan.pre_beam is not None:
        tokens = graph.GatherElements(graph.Reshape(ids, flat), places, axis=1)
    survivors = [parents, tokens, best]
    chosen = graph.Add(graph.Mul(parents, plan.vocabulary), tokens)
    for scores in resident.values():
        scores = graph.Reshape(scores, flat)
        survivors.append(graph.GatherElements(scores, chosen, axis=1))
    if prefixes is not None:
        survivors.append(graph.GatherElements(graph.Reshape(ctc, flat), places, axis=1))
        psi = graph.GatherElements(graph.Reshape(psi, flat), places, axis=1)
        graph.output("next_psi", graph.Reshape(psi, [-1]), F64)
        prefixes.extend(parents, tokens)
    told = [graph.Unsqueeze(x, [0]) for x in survivors]
    whole, floats = (graph.Concat(*x, axis=0) for x in (told[:2], told[2:]))
    doubles = [graph.cast(x, F64) for x in (whole, floats)]
    graph.output("survivors", graph.Concat(*doubles, axis=0), F64)
    return graph


def _candidates(graph: GraphWriter, plan: Plan, total: str) -> tuple[str, str]:
    """Tokens (U, H, S) that get a CTC score, and their totals."""
    assert plan.pre_beam is not None
    _, ids = graph.top(total, plan.pre_beam)
    ids, _ = graph.top(ids, plan.pre_beam, largest=False)
    if not plan.end_is_candidate:
        return ids, graph.GatherElements(total, ids, axis=2)
    is_end = graph.cast(graph.Equal(ids, plan.eos), INT)
    twice = graph.cast(graph.ReduceMax(is_end, [2], keepdims=1), np.bool_)
    totals = graph.GatherElements(total, ids, axis=2)
    end = graph.Slice(total, [plan.eos], [plan.eos + 1], [2])
    # It must not stand in two columns.
    end = graph.Where(twice, F32(-np.inf), end)
    eos = graph.Expand(plan.eos, graph.Shape(end))
    return graph.Concat(ids, eos, axis=2), graph.Concat(totals, end, axis=2)


@functools.lru_cache(maxsize=8)
def open_step(plan: Plan, memory: str) -> Runner:
    """The graph of a step, whose states stay in a memory.

    Inputs are "running" (see :data:`RUNNING`), (4, U, H) double, and by its name what
    each part gives: on the device (U * H, V), else what broadcasts to (U, H, V). With
    a CTC also "utterances" (U,), those that run, what :func:`~.ctc_graph.open_frames`
    gives and reads of the frames, and the states "r", "psi" and, with a window,
    "reach", which come back as "next_r" and so on.

    Its output "survivors" is (3 + resident parts + CTC, U, B) double: of each survivor
    the parent, token, total, and what each of the scorers gave for the token.
    """
    return open_written(_write_step(plan), memory, "search")


def open_replay(plan: Plan, memory: str) -> Replay:
    """The graph of a step, as :func:`open_step` tells, whose runs are repeated."""
    runner = open_written(_write_step(plan), memory, "search", replays=True)
    return Replay(runner, memory)
