"""Beam searches of transducers in which labels and frames go on one by one.

They are ESPnet's of ``espnet2/asr/transducer/beam_search_transducer.py``. Each goes on
from given hypotheses through given frames and gives all that it has then.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np

from espnet_onnx_plugin.runtime.search.transducer_hypotheses import (
    Asking,
    Lattice,
    Partial,
    Prefix,
    Rules,
)


def default(
    rules: Rules, lattice: Lattice, begun: Sequence[Partial], frames: Iterable[int]
) -> Asking[list[Partial]]:
    """Extend the best hypothesis until enough of those behind a blank are better.

    Equal hypotheses are not united, as in ESPnet's ``default_beam_search``.
    """
    kept = list(begun)
    for frame in frames:
        order = count()
        # The first of equal ones is extended first.
        waiting = [(-rules.rank(p), next(order), p) for p in kept]
        heapq.heapify(waiting)
        kept = []
        while True:
            _, _, best = heapq.heappop(waiting)
            likely: list[Partial] = []
            if not lattice.knows(best.labels, frame):
                likely = [p for *_, p in heapq.nsmallest(rules.beam - 1, waiting)]
            rows = yield from lattice.rows(
                [(best.labels, frame)], [best.lm], [(p.labels, frame) for p in likely]
            )
            kept.append(rules.kept(best, float(rows[0, 0])))
            [scores], [labels] = rules.expanded([best], rows)
            for score, label in zip(scores.tolist(), labels.tolist()):
                longer = rules.longer(best, label, score)
                heapq.heappush(waiting, (-rules.rank(longer), next(order), longer))
            # With score_norm_during this is the score itself, whatever the length.
            bound = waiting[0][2].score
            better = [p for p in kept if p.score > bound]
            if len(better) >= rules.beam:
                kept = sorted(better, key=lambda p: p.score)
                break
    return kept


def time_synchronous(
    rules: Rules, lattice: Lattice, begun: Sequence[Partial], frames: Iterable[int]
) -> Asking[list[Partial]]:
    """Extend all hypotheses of a frame by a label, some times (tsd)."""
    last = rules.config.max_sym_exp - 1
    kept = list(begun)
    for frame in frames:
        behind: dict[Prefix, Partial] = {}
        running = rules.together(kept)
        for step in range(last + 1):
            if not running:
                break
            unread = [p.lm for p in running] if step < last else []
            cells = [(p.labels, frame) for p in running]
            rows = yield from lattice.rows(cells, unread)
            for partial, blank in zip(running, rows[:, 0].tolist()):
                new = rules.kept(partial, blank)
                same = behind.setdefault(new.labels, new)
                if same is not new:
                    _unite(rules, same, new)
            if step < last:
                scores, labels = rules.expanded(running, rows)
                running = _best_longer(rules, running, scores, labels)
        kept = rules.best(list(behind.values()))
    return kept


def alignment_length_synchronous(
    rules: Rules, lattice: Lattice, begun: Sequence[Partial], frames: range
) -> Asking[list[Partial]]:
    """Extend all hypotheses by a label or a blank, one in each step (alsd).

    Returns:
        The best of the hypotheses that went through all frames; where there is none,
        those that are left, in no order, as in ESPnet.
    """
    total = len(frames)
    kept = list(begun)
    final: list[Partial] = []
    for step in range(total + min(rules.config.u_max, total - 1)):
        # Labels and frames of a hypothesis are as many as the steps before.
        at = [(p, step - p.labels.length + 1) for p in kept]
        at = [(p, frame) for p, frame in at if frame < total]
        rules.together([p for p, _ in at])
        if not at:
            kept = []
            continue
        running = [p for p, _ in at]
        cells = [(p.labels, frames[frame]) for p, frame in at]
        rows = yield from lattice.rows(cells, [p.lm for p in running])
        behind = [
            rules.kept(p, blank) for p, blank in zip(running, rows[:, 0].tolist())
        ]
        # The same objects: what the beam unites changes these scores, as in ESPnet.
        final += [p for p, (_, frame) in zip(behind, at) if frame == total - 1]
        scores, labels = rules.expanded(running, rows)
        scores = np.c_[[p.score for p in behind], scores]
        kept = []
        for i, j in _best_cells(rules, running, scores, first=0):
            if j == 0:
                kept.append(behind[i])
            else:
                label = int(labels[i, j - 1])
                kept.append(rules.longer(running[i], label, float(scores[i, j])))
        kept = recombined(rules, kept)
    return rules.ranked(final) if final else kept


def _best_cells(
    rules: Rules, partials: Sequence[Partial], scores: np.ndarray, first: int = 1
) -> list[tuple[int, int]]:
    """Rows and columns of the best of (hypotheses, columns) scores, best first.

    Args:
        first: labels that the first column adds to the hypotheses; the others add one.
    """
    ranks = scores
    if rules.config.score_norm_during:
        lengths = np.array([[p.labels.length] for p in partials]) + np.ones(
            scores.shape, np.int64
        )
        lengths[:, 0] += first - 1
        ranks = scores / lengths
        if rules.single:
            # Behind a blank the start alone is not in float32; it has no equal there.
            ranks = ranks.astype(np.float32)
    best = np.argsort(-ranks, axis=None, kind="stable")[: rules.beam].tolist()
    return [divmod(cell, scores.shape[1]) for cell in best]


def _best_longer(
    rules: Rules, partials: Sequence[Partial], scores: np.ndarray, labels: np.ndarray
) -> list[Partial]:
    """The best of all continuations by a label."""
    return [
        rules.longer(partials[i], int(labels[i, j]), float(scores[i, j]))
        for i, j in _best_cells(rules, partials, scores)
    ]


def _unite(rules: Rules, partial: Partial, other: Partial) -> None:
    """Add the probability of an equal hypothesis."""
    both = float(np.logaddexp(partial.score, other.score))
    partial.score = rules.rounded(both, partial.labels.length)


def recombined(rules: Rules, partials: Sequence[Partial]) -> list[Partial]:
    """Hypotheses, of which equal ones are united in place of the first."""
    first: dict[Prefix, Partial] = {}
    for partial in partials:
        same = first.setdefault(partial.labels, partial)
        if same is not partial:
            _unite(rules, same, partial)
    return list(first.values())
