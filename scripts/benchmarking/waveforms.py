"""Distances between the systems' waveforms."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarking.measurement import Distance

from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.evaluate.speech_quality import mel_cepstral_distortion
from espnet_onnx_plugin.runtime.enhancement.segments import si_snr


def distance(references: Sequence[Path], others: Sequence[Path], rate: int) -> Distance:
    """Compare the waveforms that a system has written with the reference's.

    Args:
        references: Numpy files, one for each utterance.
        others: Of the same utterances.
        rate: Sampling rate.
    """
    pairs = [
        (np.load(reference), np.load(other))
        for reference, other in zip(references, others, strict=True)
    ]
    whole = all(len(reference) == len(other) for reference, other in pairs)
    distortions = [mel_cepstral_distortion(*pair, rate) for pair in pairs]
    return Distance(
        max(difference(b, a) for a, b in pairs) if whole else None,
        None if None in distortions else statistics.mean(distortions),
    )


def distance_of_separated(
    references: Sequence[Path], others: Sequence[Path]
) -> Distance:
    """Compare the waveforms (speakers, samples) of mixtures, see :func:`distance`."""
    pairs = [
        (np.load(reference), np.load(other))
        for reference, other in zip(references, others, strict=True)
    ]
    ratios = [si_snr(*waves) for pair in pairs for waves in zip(*pair, strict=True)]
    far = max(difference(other, reference) for reference, other in pairs)
    return Distance(far, si_snr=statistics.mean(ratios))
