"""Long mixtures cut into segments, and what is made of them put together again.

As ``espnet2.bin.enh_inference.SeparateSpeech``: in the overlap of two segments their
outputs are averaged, after those of the later one are brought into the order in which
their scale-invariant signal-to-noise ratio to the earlier ones is best.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np


def in_segments(
    separate: Callable[[np.ndarray], np.ndarray],
    mix: np.ndarray,
    fs: int,
    segments: tuple[float, float],
    reference: Callable[[np.ndarray], np.ndarray] | None,
) -> np.ndarray:
    """Separate a mixture segment by segment.

    Args:
        separate: makes outputs (speakers, samples) of (samples[, channels]).
        mix: (samples[, channels]), longer than a segment.
        fs: samples a second.
        segments: seconds of one, and from one to the next.
        reference: picks of a segment (samples[, channels]) what its outputs have the
            energy of; None: they keep theirs.

    Returns:
        (speakers, samples).
    """
    size, hop = segments
    overlap = int(np.round(fs * (size - hop)))
    count = int(np.ceil((len(mix) - overlap) / (hop * fs)))
    length = int(size * fs)
    stitched = np.zeros((0, 0), mix.dtype)
    for i in range(count):
        begin = int(i * hop * fs)
        piece = mix[begin : begin + length]
        there = len(piece)
        padding = [(0, length - there), *[(0, 0)] * (mix.ndim - 1)]
        piece = np.pad(piece, padding)
        made = separate(piece)
        if reference is not None:
            energy = np.sqrt(np.mean(reference(piece)[:there] ** 2))
            ours = np.sqrt(np.mean(made.sum(axis=0)[:there] ** 2))
            made = made * (energy / ours)
        if i == 0:
            stitched = made[:, :there]
            continue
        # Python's [-0:] is everything, as ESPnet's: without an overlap its segments
        # cannot be put together either.
        common = stitched[:, -overlap:]
        made = made[best_order(common, made[:, :overlap])]
        made[:, there:] = 0
        joint = (common + made[:, :overlap]) / 2
        stitched = np.concatenate(
            (stitched[:, :-overlap], joint, made[:, overlap:there]), axis=1
        )
    return stitched


def best_order(reference: np.ndarray, made: np.ndarray) -> list[int]:
    """Order of the outputs ``made`` that is most like ``reference``.

    Args:
        reference, made: (speakers, samples).

    Returns:
        For each speaker of ``reference``, which one of ``made`` it is.
    """
    ratios = [[si_snr(ref, one) for one in made] for ref in reference]
    orders = list(itertools.permutations(range(len(made))))
    means = [np.mean([ratios[i][j] for i, j in enumerate(order)]) for order in orders]
    return list(orders[int(np.argmax(means))])


def si_snr(reference: np.ndarray, made: np.ndarray) -> float:
    """Scale-invariant signal-to-noise ratio in dB of waveforms (samples,).

    As ``espnet2.enh.loss.criterions.time_domain.SISNRLoss``.
    """
    eps = np.finfo(reference.dtype).eps
    reference = reference - reference.mean()
    made = made - made.mean()
    target = (reference @ made) * reference / (reference @ reference + eps)
    noise = made - target
    return float(10 * np.log10((target @ target) / (noise @ noise + eps) + eps))
