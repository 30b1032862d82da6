"""Lengths of which an encoder sees few: each is padded to the next one of a series.

On a GPU a new shape is dear: cuDNN chooses the algorithm of every convolution again,
and the arena seldom has a piece of memory that fits.
"""

from __future__ import annotations

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
