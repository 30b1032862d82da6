"""Greedy search of transducers, also of those with blanks of several frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.runtime.search.transducer_hypotheses import (
    Asking,
    Partial,
    Request,
)

#: Labels in a frame of a search with blanks of several frames, as in ESPnet.
MOST_LABELS = 4


def greedy(begun: Partial, frames: range, blank: int, ahead: int) -> Asking[Partial]:
    """Take the best label of each frame, one at most: ESPnet's ``greedy_search``.

    As there, blanks do not count for the score.

    Args:
        begun: the hypothesis.
        frames: those to go through.
        blank: its label.
        ahead: frames that are scored together, as if all but the last were blank.
    """
    score, labels, frame = begun.score, begun.labels, frames.start
    while frame < frames.stop:
        [block] = yield Request([(labels, frame)], ahead, ())
        best = block.argmax(axis=1)
        spoken = best != blank
        first = int(spoken.argmax())
        if not spoken[first]:
            frame += len(block)
            continue
        score += float(block[first, best[first]])
        labels = labels.then(int(best[first]))
        frame += first + 1
    return Partial(score, labels)


def multi_blank_greedy(
    begun: Partial, frames: range, durations: Mapping[int, int], ahead: int
) -> Asking[Partial]:
    """Take the best label, up to four times a frame: ``multi_blank_greedy_search``.

    Here blanks count for the score, which is a float32 from the first one on.

    Args:
        begun: the hypothesis.
        frames: those to go through.
        durations: frames that each of the blanks lasts, by label.
        ahead: see :func:`greedy`.
    """
    score, labels, frame = begun.score, begun.labels, frames.start
    added = 0
    while frame < frames.stop:
        [block] = yield Request([(labels, frame)], ahead, ())
        best = block.argmax(axis=1).tolist()
        end, first = frame + len(block), frame
        while frame < end:
            row = frame - first
            top, added_score = best[row], block[row, best[row]]
            if top in durations:
                score = np.float32(score) + added_score
                frame, added = frame + durations[top], 0
                continue
            if isinstance(score, np.float32):
                score += added_score
            else:
                score += float(added_score)
            labels, added = labels.then(top), added + 1
            if added == MOST_LABELS:
                frame, added = frame + 1, 0
            break
    return Partial(float(score), labels)
