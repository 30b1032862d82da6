"""Lengths of which a graph sees few: each is padded to the next one of a series.

On a GPU a new shape is dear: cuDNN chooses the algorithm of every convolution again,
and the arena seldom has a piece of memory that fits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espnet_onnx_plugin.bundle import Framing

#: The shortest length, in frames of 10 ms little more than a second.
SHORTEST = 128

#: Lengths between one and its double: at most an eighth of one is padding.
STEPS = 8


def bucket(length: int) -> int:
    """The next length of the series 128, 144, ..., 240, 256, 288, ..., 480, 512, ...

    Args:
        length: at least 1.
    """
    octave = SHORTEST
    while 2 * octave < length:
        octave *= 2
    step = octave // STEPS
    return max(SHORTEST, -(-length // step) * step)


def doubled(count: int, least: int) -> int:
    """The next number of 0 and ``least``, twice it, four times it, ..."""
    if count == 0:
        return 0
    while least < count:
        least *= 2
    return least


def pad_waveforms(waveforms: Sequence[np.ndarray], framing: Framing) -> np.ndarray:
    """Waveforms as a batch of which each row has the frames that it has alone.

    A frame is made of a window, and the last windows reach beyond the end, where the
    frontend reflects a waveform. In a batch it would reflect the padding; so the
    reflection is put there instead, and the batch made so long that what it reflects
    itself is behind every waveform's last frame.

    Args:
        waveforms: each (samples,), and at least ``framing.shortest`` of them.
        framing: of a frontend whose frames are made of windows.

    Returns:
        (utterances, samples) float32, which are one of few numbers of frames.
    """
    pad, hop, overlap = framing.pad, framing.hop_length, framing.edge
    longest = max(map(len, waveforms)) + pad
    frames = bucket(-(-(longest - overlap) // hop) + 1)
    batch = np.empty((len(waveforms), (frames - 1) * hop + overlap), np.float32)
    for row, waveform in zip(batch, waveforms):
        end = len(waveform)
        row[:end] = waveform
        row[end : end + pad] = waveform[::-1][1 : pad + 1]
        row[end + pad :] = 0
    return batch
