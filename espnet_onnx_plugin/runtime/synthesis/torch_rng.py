"""Draws of torch's generator on a CPU, in numpy.

A model that draws while it synthesizes (the prenet's dropout of Tacotron 2, the latents
of VITS, the noise that a vocoder shapes) takes its draws as inputs of the graphs. Drawn
here, with the same seed and in the same order as ESPnet draws them, they are ESPnet's,
and they are the same on every machine. The formulas are those of ATen's
``DistributionsHelper.h``, ``DistributionTemplates.h`` and ``DistributionKernels.cpp``.
"""

from __future__ import annotations

import math

import numpy as np

# At this size torch goes from one draw at a time to Box and Muller's formula on blocks.
BLOCKED = 16
HALF = BLOCKED // 2
# The generator of MKL's dropouts: x' = MULTIPLIER x mod MODULUS.
MULTIPLIER = 1132489760
MODULUS = 2**31 - 1
# Of numbers that are drawn to no effect.
_CHUNK = 2**20


class Noise:
    """Draws as after ``torch.manual_seed(seed)``, each advancing the generator.

    Torch draws dropouts in two ways: from its generator, or on Intel's processors, in
    builds with MKL, from a generator of MKL's that each dropout seeds anew. What is
    drawn elsewhere is what is drawn here, unless ``mkl`` is set.

    Args:
        seed: of any size; as in torch the lower 32 bits count.
        mkl: draw dropouts as torch does on Intel's processors.
    """

    def __init__(self, seed: int, mkl: bool = False):
        self.seed = seed % 2**32
        self._generator = np.random.RandomState(self.seed)  # MT19937
        self._mkl = mkl
        self._next: float | None = None  # a normal one, left over by a pair

    def state(self) -> bytes:
        """Where the generator is."""
        twister = self._generator.get_state(legacy=False)["state"]
        spare = np.float64(np.nan if self._next is None else self._next)
        position, words = np.int32(twister["pos"]), twister["key"]
        return position.tobytes() + spare.tobytes() + bytes(words)

    def restore(self, state: bytes) -> None:
        """Go on from where :meth:`state` was called."""
        [position], [spare] = np.frombuffer(state[:4], "i4"), np.frombuffer(state[4:12])
        words = np.frombuffer(state[12:], np.uint32)
        self._generator.set_state(("MT19937", words, int(position), 0, 0.0))
        self._next = None if np.isnan(spare) else float(spare)

    def normal(self, *shape: int, blocked: bool = True) -> np.ndarray:
        """Equal to ``torch.randn(*shape)`` to some units in the last place.

        Args:
            shape: of the result.
            blocked: False for a tensor that is not contiguous, such as
                ``torch.randn_like(x.transpose(1, 2))``: torch then draws one at a
                time, in the order of memory. ``shape`` is that of ``x``.

        Returns:
            float32.
        """
        size = math.prod(shape)
        if blocked and size >= BLOCKED:
            return self._blocks(size).reshape(shape)
        return self._pairs(size).reshape(shape).astype(np.float32)

    def keep(self, rate: float, *shape: int) -> np.ndarray:
        """Factors of ``F.dropout(x, rate)``: 0, or 1 / (1 - rate).

        Args:
            rate: of the zeros, 0 <= rate < 1; at 0 nothing is drawn, as in torch.
            shape: of the result, with the axes in the order of ``x``'s memory.

        Returns:
            float32.
        """
        if rate == 0:
            return np.ones(shape, np.float32)
        size = math.prod(shape)
        uniform = self._mkl_uniform(size) if self._mkl else self._uniform(size)
        kept = (uniform < 1 - rate).astype(np.float32)
        return (kept / np.float32(1 - rate)).reshape(shape)

    def skip(self, count: int) -> None:
        """Draw so many numbers that nothing uses.

        ESPnet's encoders draw one for each layer, to leave layers out in training, and
        draw them in inference too; a model that is built draws its first weights.
        """
        for first in range(0, count, _CHUNK):
            self._bits(min(_CHUNK, count - first))

    def _bits(self, size: int) -> np.ndarray:
        return self._generator.randint(0, 2**32, size=size, dtype=np.uint32)

    def _uniform(self, size: int) -> np.ndarray:
        """Draw numbers of 53 bits, in [0, 1)."""
        high, low = self._bits(2 * size).astype(np.uint64).reshape(size, 2).T
        bits = (high << np.uint64(32) | low) & np.uint64(2**53 - 1)
        return bits * 2.0**-53

    def _mkl_uniform(self, size: int) -> np.ndarray:
        """MKL rounds these to float32 first, which matters once in 10 million draws."""
        state = int(self._bits(1)[0]) % MODULUS or 1
        return state * _powers(size) % np.uint64(MODULUS) / MODULUS

    def _blocks(self, size: int) -> np.ndarray:
        """A last block that is not whole overlaps the one before, and is drawn anew."""
        whole = size // BLOCKED * BLOCKED
        values = np.empty(size, np.float32)
        values[:whole] = _box_muller(self._bits(size)[:whole])
        if whole < size:
            values[-BLOCKED:] = _box_muller(self._bits(BLOCKED))
        return values

    def _pairs(self, size: int) -> np.ndarray:
        left = [] if self._next is None else [self._next]
        pairs = (max(size - len(left), 0) + 1) // 2
        angle, uniform = self._uniform(2 * pairs).reshape(pairs, 2).T
        radius, angle = np.sqrt(-2 * np.log1p(-uniform)), 2 * np.pi * angle
        pair = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        values = np.concatenate([left, pair.reshape(-1)])
        self._next = float(values[size]) if len(values) > size else None
        return values[:size]


def _box_muller(bits: np.ndarray) -> np.ndarray:
    """Each block's first half gives the radius, its second the angle."""
    uniform = (bits & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)
    first, second = uniform.reshape(-1, 2, HALF).swapaxes(0, 1)
    radius = np.sqrt(-2 * np.log((1 - first).astype(np.float64)))
    angle = (np.float32(2 * np.pi) * second).astype(np.float64)
    halves = [radius * np.cos(angle), radius * np.sin(angle)]
    return np.stack(halves, axis=1).reshape(-1).astype(np.float32)


def _powers(size: int) -> np.ndarray:
    """``MULTIPLIER ** i % MODULUS``; below 2 ** 31, so that products fit 64 bits."""
    powers = np.ones(1, np.uint64)
    while len(powers) < size:
        jump = np.uint64(pow(MULTIPLIER, len(powers), MODULUS))
        powers = np.concatenate([powers, powers * jump % np.uint64(MODULUS)])
    return powers[:size]
