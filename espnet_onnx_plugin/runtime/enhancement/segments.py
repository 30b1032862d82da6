"""Long mixtures cut into segments, and what is made of them put together again.

As ``espnet2.bin.enh_inference.SeparateSpeech``: in the overlap of two segments their
outputs are averaged, after those of the later one are brought into the order in which
their scale-invariant signal-to-noise ratio to the earlier ones is best.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from espnet_onnx_plugin.errors import PluginError


class Stitching:
    """A mixture that is separated segment by segment, see :class:`~.stream.Progress`.

    One that is not longer than a segment is separated as it is.

    Args:
        separate: makes outputs (speakers, samples) of (samples[, channels]); it may
            change the samples, as the segments after this one see them.
        fs: samples a second.
        segments: seconds of one, and from one to the next.
        reference: picks of a segment (samples[, channels]) what its outputs have the
            energy of; None: they keep theirs.

    Attributes:
        latency: samples that have to come from one on before its outputs are known.
    """

    def __init__(
        self,
        separate: Callable[[np.ndarray], np.ndarray],
        fs: int,
        segments: tuple[float, float],
        reference: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        size, hop = segments
        self._separate, self._reference = separate, reference
        self._length, self._hop, self._fs = int(size * fs), hop, fs
        self.latency = self._length
        self._overlap = int(np.round(fs * (size - hop)))
        if not self._overlap:
            raise PluginError(
                f"segments of {size} s every {hop} s have nothing in common by which "
                "they could be put together; use a smaller hop_size"
            )
        self._number = self._begin = 0  # of the next segment, and its first sample
        self._waiting: list[np.ndarray] = []  # from there on
        self._size = 0  # of what waits
        self._given = 0  # outputs that have been handed on
        self._common: np.ndarray | None = None  # outputs that the next one may change

    def add(self, samples: np.ndarray) -> np.ndarray | None:
        """Separate on.

        Args:
            samples: (samples[, channels]).

        Returns:
            (speakers, samples), what no later segment changes, or None.
        """
        self._waiting.append(samples)
        self._size += len(samples)
        made = []
        while self._size > self._length and self._exists(self._number + 1):
            made.append(self._segment())
        return np.concatenate(made, axis=1) if made else None

    def end(self) -> np.ndarray:
        """Separate what is left.

        Returns:
            (speakers, samples), the rest of the outputs.
        """
        if self._common is None and self._size <= self._length:
            return self._separate(np.concatenate(self._waiting))
        left, made = self._begin + self._size - self._given, []
        while self._exists(self._number):
            made.append(self._segment())
        assert self._common is not None
        # Where the last one begins a sample early, by rounding, ESPnet gives up.
        return np.concatenate((*made, self._common), axis=1)[:, :left]

    def _exists(self, number: int) -> bool:
        """Whether a mixture of what has come has this segment."""
        samples = self._begin + self._size
        return number < (samples - self._overlap) / (self._hop * self._fs)

    def _segment(self) -> np.ndarray:
        """Separate the next segment and give what the one after it does not change."""
        waiting = np.concatenate(self._waiting)
        piece = waiting[: self._length]
        there, overlap = len(piece), self._overlap
        if there < self._length:
            padding = [(0, self._length - there), *[(0, 0)] * (piece.ndim - 1)]
            piece = np.pad(piece, padding)
        made = self._separate(piece)
        if self._reference is not None:
            energy = np.sqrt(np.mean(self._reference(piece)[:there] ** 2))
            ours = np.sqrt(np.mean(made.sum(axis=0)[:there] ** 2))
            made = made * (energy / ours)
        if self._common is None:
            made = made[:, :there]
        else:
            made = made[best_order(self._common, made[:, :overlap])]
            made[:, there:] = 0
            joint = (self._common + made[:, :overlap]) / 2
            made = np.concatenate((joint, made[:, overlap:there]), axis=1)
        self._number += 1
        begin = int(self._number * self._hop * self._fs)  # in ESPnet's order
        waiting = waiting[begin - self._begin :].copy()
        self._waiting, self._size, self._begin = [waiting], len(waiting), begin
        made, self._common = np.split(made, [made.shape[1] - overlap], axis=1)
        self._given += made.shape[1]
        return made


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
