"""Beam searches of transducers with a limited number of expansions in a frame.

They are ESPnet's of ``espnet2/asr/transducer/beam_search_transducer.py``, in which a
hypothesis also gets the score of those that it continues (prefix search).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np

from espnet_onnx_plugin.runtime.search.transducer_hypotheses import (
    Asking,
    Lattice,
    Partial,
    Prefix,
    Rules,
    top,
)


def n_step_constrained(
    rules: Rules, lattice: Lattice, begun: Sequence[Partial], frames: Iterable[int]
) -> Asking[list[Partial]]:
    """Extend all hypotheses ``nstep`` times in a frame (nsc)."""
    steps = rules.config.nstep
    kept = list(begun)
    for frame in frames:
        running = yield from _prefix_search(rules, lattice, kept, frame)
        behind: list[Partial] = []
        for _ in range(steps):
            rows = yield from _rows(lattice, running, frame)
            blanks = rows[:, 0].tolist()
            behind += [rules.kept(p, blank) for p, blank in zip(running, blanks)]
            scores, labels = rules.expanded(running, rows)
            # ESPnet's list of longer ones is never emptied, but those of the step
            # before are the running ones, which it leaves out.
            there = {p.labels for p in running}
            longer = []
            for cell in np.argsort(-scores, axis=None, kind="stable").tolist():
                i, j = divmod(cell, scores.shape[1])
                new = rules.longer(running[i], int(labels[i, j]), float(scores[i, j]))
                if new.labels not in there:
                    longer.append(new)
                    if len(longer) == rules.beam:
                        break
            running = longer
            if not running:
                break
        if steps > 1 and running:
            rows = yield from _rows(lattice, running, frame)
            running = [
                rules.kept(p, blank) for p, blank in zip(running, rows[:, 0].tolist())
            ]
        kept = _best(rules, behind + running)
    return kept


def modified_adaptive_expansion(
    rules: Rules, lattice: Lattice, begun: Sequence[Partial], frames: Iterable[int]
) -> Asking[list[Partial]]:
    """Extend hypotheses by the labels that are not far behind the best one (maes).

    Only the best hypotheses behind a blank are kept and none gets better on its way, so
    that those which are worse already are left out at once.
    """
    steps = max(rules.config.nstep, 2)
    kept = list(begun)
    for frame in frames:
        running = yield from _prefix_search(rules, lattice, kept, frame)
        there = {p.labels for p in running}
        behind: list[Partial] = []
        for step in range(steps):
            last = step == steps - 1
            rows = yield from _rows(lattice, running, frame)
            longer: list[Partial] = []
            for partial, score, label in _candidates(rules, running, rows):
                if label == 0:
                    behind.append(_as_is(partial, score))
                    continue
                new = _longer(rules, partial, label, score, last)
                if new.labels not in there:
                    longer.append(new)
            running = _not_worse(rules, behind, longer)
            if not running:
                break
        else:
            behind += yield from _best_behind(rules, lattice, behind, running, frame)
        kept = _best(rules, behind)
    return kept


def _prefix_search(
    rules: Rules, lattice: Lattice, kept: Sequence[Partial], frame: int
) -> Asking[list[Partial]]:
    """Add the scores of prefixes, longest hypotheses first."""
    partials = sorted(kept, key=lambda p: p.labels.length, reverse=True)
    pairs: list[tuple[Partial, Partial, list[Prefix]]] = []
    for i, partial in enumerate(partials):
        for shorter in partials[i + 1 :]:
            between = _between(
                partial.labels, shorter.labels, rules.config.prefix_alpha
            )
            if between is not None:
                pairs.append((partial, shorter, between))
    if not pairs:
        return partials
    cells = dict.fromkeys((prefix, frame) for *_, path in pairs for prefix in path[:-1])
    likely = [(p.labels, frame) for p in partials]
    rows = yield from lattice.rows(list(cells), [p.lm for p in partials], likely)
    scores = {prefix: row for (prefix, _), row in zip(cells, rows)}
    for partial, shorter, path in pairs:
        score = shorter.score
        for prefix, longer in zip(path, path[1:]):
            score += float(scores[prefix][longer.label])
        partial.score = float(np.logaddexp(partial.score, score))
    return partials


def _between(labels: Prefix, shorter: Prefix, most: int) -> list[Prefix] | None:
    """The sequences from a prefix to a longer one; None if it is none, or too short."""
    if not 0 < labels.length - shorter.length <= most:
        return None
    path: list[Prefix] = []
    prefix: Prefix | None = labels
    while prefix is not None and prefix.length >= shorter.length:
        path.append(prefix)
        prefix = prefix.before
    return path[::-1] if path[-1] is shorter else None


def _rows(
    lattice: Lattice, partials: Sequence[Partial], frame: int
) -> Asking[np.ndarray]:
    """Scores of the next label of each hypothesis, (hypotheses, vocabulary)."""
    cells = [(p.labels, frame) for p in partials]
    return (yield from lattice.rows(cells, [p.lm for p in partials]))


def _candidates(
    rules: Rules, partials: Sequence[Partial], rows: np.ndarray
) -> Iterable[tuple[Partial, float, int]]:
    """Hypotheses, and totals and labels of what they go on with, 0 for blank."""
    config = rules.config
    log_probs, labels = top(rows, rules.beam + config.expansion_beta)
    for partial, of_labels, row in zip(partials, log_probs.tolist(), labels.tolist()):
        totals = [partial.score + log_prob for log_prob in of_labels]
        for total, label in zip(totals, row):
            if total >= totals[0] - config.expansion_gamma:
                yield partial, total, label


def _longer(
    rules: Rules, partial: Partial, label: int, score: float, last: bool
) -> Partial:
    """A hypothesis with one label more.

    As in ESPnet, in the last step of a frame the model's scores are new but its state
    is not (``lm_states``, a slip of the pen).
    """
    if partial.lm is None:
        return Partial(score, partial.labels.then(label))
    past = partial.lm if partial.lm_past is None else partial.lm_past
    score += (rules.lm_weight or 0.0) * float(partial.lm_scores()[label])
    return Partial(
        score,
        partial.labels.then(label),
        lm=past.then(label),
        lm_past=past if last else None,
    )


def _as_is(partial: Partial, score: float) -> Partial:
    return Partial(score, partial.labels, partial.lm, partial.lm_past)


def _best(rules: Rules, partials: Sequence[Partial]) -> list[Partial]:
    return sorted(partials, key=lambda p: p.score, reverse=True)[: rules.beam]


def _bound(rules: Rules, partials: Sequence[Partial]) -> float:
    """Score of the last hypothesis that is kept of these, if no more come."""
    if len(partials) < rules.beam or (rules.lm_weight or 0.0) < 0.0:
        return -math.inf
    return heapq.nlargest(rules.beam, (p.score for p in partials))[-1]


def _not_worse(
    rules: Rules, behind: Sequence[Partial], partials: Sequence[Partial]
) -> list[Partial]:
    """Hypotheses that can still be kept beside those behind a blank."""
    bound = _bound(rules, behind)
    return [p for p in partials if p.score >= bound]


def _best_behind(
    rules: Rules,
    lattice: Lattice,
    behind: Sequence[Partial],
    partials: Sequence[Partial],
    frame: int,
) -> Asking[list[Partial]]:
    """Hypotheses behind a blank, of those that can still be kept.

    The best are asked first, after which most of the others are worse already.
    """
    order = sorted(range(len(partials)), key=lambda i: -partials[i].score)
    found: dict[int, Partial] = {}
    while order:
        asked, order = order[: rules.beam], order[rules.beam :]
        rows = yield from lattice.rows([(partials[i].labels, frame) for i in asked])
        for i, blank in zip(asked, rows[:, 0].tolist()):
            found[i] = _as_is(partials[i], partials[i].score + blank)
        bound = _bound(rules, [*behind, *found.values()])
        order = [i for i in order if partials[i].score >= bound]
    return [found[i] for i in sorted(found)]
