"""Activities of speakers: as probabilities, at each sample, and whose they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, as ESPnet's class computes them."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def at_samples(activities: np.ndarray, samples: int) -> np.ndarray:
    """Activities (frames, speakers) at each sample, (samples, speakers).

    As torch's ``interpolate`` with mode linear, in single precision.
    """
    frames, one = len(activities), np.float32(1)
    scale = np.float32(frames) / np.float32(samples)
    half = np.float32(0.5)
    place = (np.arange(samples, dtype=np.float32) + half) * scale - half
    place = np.maximum(place, np.float32(0))
    left = np.minimum(place.astype(np.int64), frames - 1)
    right = np.minimum(left + 1, frames - 1)
    weight = (place - left.astype(np.float32))[:, None]
    return (one - weight) * activities[left] + weight * activities[right]


def most_alike(waves: np.ndarray, activities: np.ndarray) -> Sequence[int]:
    """Order of the activities in which they are most like waveforms.

    By the sum of the correlations of the magnitudes: ``permute_diar`` of ESPnet's
    ``diar_inference``, the post-processing of https://arxiv.org/abs/2203.17068.

    Args:
        waves: (speakers, samples).
        activities: (samples, speakers).

    Returns:
        For each waveform, whose activity is its.
    """
    number = len(waves)
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.corrcoef(np.abs(waves), activities.T)[:number, number:]
    orders = list(itertools.permutations(range(number)))
    alike = [sum(both[i, j] for i, j in enumerate(order)) for order in orders]
    return orders[int(np.argmax(alike))]
