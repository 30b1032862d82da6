"""Spatial filters of spectra: beamforming, as ESPnet computes it.

Spectra are (bins, channels, frames), in double precision as in ESPnet, and every
frequency is computed at once. The formulas are those of ESPnet's modules
``espnet2.enh.layers.{beamformer,beamformer_th,dnn_beamformer}``, which name the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.bundle.enhancement import Beamforming
from espnet_onnx_plugin.runtime.enhancement.dereverberation import (
    LEAST_POWER,
    delayed,
)

#: Added to what is divided by.
_EPS = 1e-8

#: A channel, or weights (channels,) of all.
Reference = int | np.ndarray

#: Beamformers whose filter is not computed of what is noise to a speaker.
_WITHOUT_NOISE = (
    "mpdr_souden",
    "wmpdr_souden",
    "wpd_souden",
    "mwf",
    "wmwf",
    "mvdr_tfs",
    "mvdr_tfs_souden",
)


def _adjoint(matrix: np.ndarray) -> np.ndarray:
    """The conjugate transpose of matrices (..., rows, columns)."""
    return matrix.conj().swapaxes(-1, -2)


@dataclass(frozen=True)
class _Statistics:
    """Matrices that the filter of a speaker is computed of, each (bins, rows, rows).

    Attributes:
        speech: covariance of the speech.
        noise: of all that is not this speaker, or empty where it is not needed.
        minimized: of what the filter lets pass as little as possible.
        reference: the channel that speech is to be as in.
    """

    speech: np.ndarray
    noise: np.ndarray
    minimized: np.ndarray
    reference: Reference


def _covariance(spectrum: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Covariance of the channels (bins, channels, channels), of the masked part.

    Args:
        spectrum: (bins, channels, frames).
        mask: likewise.
    """
    mean = mask.mean(axis=1, keepdims=True, dtype=np.float64)
    mean /= mean.sum(axis=-1, keepdims=True) + 1e-15
    return (spectrum * mean) @ _adjoint(spectrum)


def _loaded(matrix: np.ndarray, share: float | None, eps: float = _EPS) -> np.ndarray:
    """Matrices with some of their trace on the diagonal."""
    if share is None:
        return matrix
    trace = np.trace(matrix, axis1=-2, axis2=-1).real
    added = (trace * share + eps)[..., None, None]
    return matrix + added * np.eye(matrix.shape[-1])


def _chosen(matrix: np.ndarray, reference: Reference) -> np.ndarray:
    """The column (bins, rows) of a reference."""
    if isinstance(reference, np.ndarray):
        return matrix @ reference
    return matrix[..., reference]


def _with_zeros(matrix: np.ndarray, rows: int) -> np.ndarray:
    """Matrices with more rows, of zeros."""
    return np.pad(matrix, [(0, 0), (0, rows - matrix.shape[1]), (0, 0)])


def _wiener(given: _Statistics, settings: Beamforming) -> np.ndarray:
    """All columns (bins, rows, channels) of the Wiener filter."""
    matrix = _loaded(given.minimized, settings.loading)
    return np.linalg.solve(matrix, _with_zeros(given.speech, matrix.shape[-1]))


def _mwf(given: _Statistics, settings: Beamforming) -> np.ndarray:
    return _chosen(_wiener(given, settings), given.reference)


def _normalized(
    given: _Statistics, settings: Beamforming, least: float = 0.0
) -> np.ndarray:
    """The Wiener filter over its trace, to which a number is added."""
    filters = _wiener(given, settings)
    square = filters[:, : filters.shape[-1]]
    trace = np.trace(square, axis1=-2, axis2=-1)[:, None, None]
    return _chosen(filters / (least + trace + _EPS), given.reference)


def _rank1(given: _Statistics, settings: Beamforming) -> np.ndarray:
    return _normalized(given, settings, least=1.0)


def _transfer(
    given: _Statistics, settings: Beamforming, eps: float = _EPS
) -> np.ndarray:
    """Relative transfer function (bins, channels, 1), by the power method."""
    noise = _loaded(given.noise, settings.loading, eps)
    phi = np.linalg.solve(noise, given.speech)
    transfer = _chosen(phi, given.reference)[..., None]
    for _ in range(settings.iterations - 2):
        transfer = phi @ transfer
    return given.speech @ transfer


def _distortionless(given: _Statistics, settings: Beamforming) -> np.ndarray:
    """The filter that keeps what comes by the relative transfer function."""
    wpd = settings.type == "wpd"
    eps = 1e-15 if wpd else _EPS
    matrix = given.minimized
    if settings.torchaudio and not wpd:
        matrix = _loaded(matrix, settings.loading)
    transfer = _transfer(given, settings, _EPS if settings.torchaudio else eps)
    scale = _chosen(_adjoint(transfer)[:, 0], given.reference)
    transfer = _with_zeros(transfer, matrix.shape[-1])
    filters = np.linalg.solve(matrix, transfer)
    through = (_adjoint(transfer) @ filters)[..., 0].real
    return filters[..., 0] * scale[:, None] / (through + eps)


def _eigenvector(given: _Statistics, settings: Beamforming) -> np.ndarray:
    """The filter of the highest ratio of speech to noise, by the power method."""
    phi = np.linalg.solve(_loaded(given.minimized, settings.loading), given.speech)
    vector = phi[..., :1]
    for _ in range(2):
        vector = phi @ vector
    vector = vector[..., 0]
    vector = vector / np.linalg.norm(vector, axis=-1, keepdims=True)
    # ESPnet turns by the exponential of the angle to the bin before, and compares the
    # first bin with the last.
    angle = np.angle((vector * np.roll(vector, 1, axis=0).conj()).sum(axis=-1))
    return vector * np.exp(-1j * np.exp(angle))[:, None]


#: By the type; all with ``_souden`` are :func:`_normalized`.
_FILTERS: Mapping[str, Callable[[_Statistics, Beamforming], np.ndarray]] = {
    **dict.fromkeys(("mvdr", "mpdr", "wmpdr", "wpd", "mvdr_tfs"), _distortionless),
    **dict.fromkeys(("mwf", "wmwf", "sdw_mwf"), _mwf),
    **dict.fromkeys(("gev", "gev_ban"), _eigenvector),
    "r1mwf": _rank1,
}


def _normalization(vector: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Gain (bins,) of a blind analytic normalization."""
    through = noise @ vector[..., None]
    left = vector.conj()[:, None]
    numerator = (left @ noise @ through)[:, 0, 0]
    denominator = (left @ through)[:, 0, 0]
    return np.sqrt(numerator + _EPS) / (denominator * noise.shape[-1] ** 2 + _EPS)


def _constrained(
    given: Sequence[_Statistics], settings: Beamforming
) -> Iterator[np.ndarray]:
    """Filters that let one speaker pass and no other: LCMV, of each speaker."""
    transfer = np.concatenate([_transfer(one, settings) for one in given], axis=-1)
    [reference] = {one.reference for one in given}
    transfer = transfer / transfer[:, reference, None]
    for speaker, one in enumerate(given):
        filters = np.linalg.solve(_loaded(one.minimized, settings.loading), transfer)
        inverse = np.linalg.inv(_adjoint(transfer) @ filters)
        yield (filters @ inverse[..., speaker, None])[..., 0]


class Filters:
    """The beamformer of a mixture: statistics of it, and what the filters make of it.

    Args:
        spectrum: (bins, channels, frames).
        masks: float32 (masks, bins, channels, frames), that of noise the last.
        settings: which beamformer.
    """

    def __init__(
        self, spectrum: np.ndarray, masks: np.ndarray, settings: Beamforming
    ) -> None:
        self._spectrum, self._settings = spectrum, settings
        self._masks = masks[:-1] if settings.noise_mask else masks
        self.speech = [_covariance(spectrum, mask) for mask in self._masks]
        self._background: np.ndarray | None = None
        if settings.type in _WITHOUT_NOISE:
            return
        if settings.noise_mask:
            self._background = _covariance(spectrum, masks[-1])
        elif len(masks) == 1:
            self._background = _covariance(spectrum, 1 - masks[0])

    @property
    def _seen(self) -> np.ndarray:
        """The spectrum as the filters read it."""
        if not self._settings.type.startswith("wpd"):
            return self._spectrum
        past = range(self._settings.delay, self._settings.delay + self._settings.taps)
        return delayed(self._spectrum, [0, *past])

    def _others(self, speaker: int) -> list[np.ndarray]:
        """Covariances of the other speakers."""
        return [one for i, one in enumerate(self.speech) if i != speaker]

    def _noise(self, speaker: int) -> np.ndarray:
        if self._settings.type == "mvdr_tfs":
            return np.sum(self._others(speaker), axis=0)
        if self._settings.type in _WITHOUT_NOISE:
            return np.zeros(0)
        others = self._others(speaker)
        if self._background is not None:
            others = [self._background, *others]
        return np.sum(others, axis=0)

    def _weighted(self, speaker: int, seen: np.ndarray) -> np.ndarray:
        """Covariance of all, where each frame counts by the inverse of its power."""
        first = 0
        if self._settings.type.startswith("wpd"):
            first = self._settings.delay + self._settings.taps - 1
        power = np.abs(self._spectrum) ** 2 * self._masks[speaker]
        power = np.maximum(power.mean(axis=1, keepdims=True), LEAST_POWER)
        seen, power = seen[..., first:], power[..., first:]
        return (seen / power) @ _adjoint(seen)

    def _minimized(
        self, speaker: int, noise: np.ndarray, seen: np.ndarray
    ) -> list[np.ndarray]:
        """Matrices that filters are computed of, whose quietest output is taken."""
        kind = self._settings.type.removesuffix("_souden")
        if kind == "mvdr_tfs":
            return self._others(speaker)
        if kind in ("mpdr", "lcmp", "mwf"):
            return [seen @ _adjoint(seen)]
        if kind in ("wmpdr", "wlcmp", "wmwf", "wpd"):
            return [self._weighted(speaker, seen)]
        if kind == "sdw_mwf":
            return [self.speech[speaker] + noise]
        return [noise]

    def __call__(self, references: Sequence[Reference]) -> np.ndarray:
        """Spectrum of each speaker (speakers, bins, frames).

        Args:
            references: of each speaker, the channel to be as in.

        Raises:
            numpy.linalg.LinAlgError: where a matrix has no inverse.
        """
        seen, settings = self._seen, self._settings
        given = []
        for speaker, (speech, reference) in enumerate(zip(self.speech, references)):
            noise = self._noise(speaker)
            matrices = self._minimized(speaker, noise, seen)
            given.append(
                [_Statistics(speech, noise, one, reference) for one in matrices]
            )
        if settings.type in ("lcmv", "lcmp", "wlcmp"):
            filters = _constrained([one for [one] in given], settings)
            return np.stack([_filtered(weights, seen) for weights in filters])
        return np.stack([self._quietest(of_speaker, seen) for of_speaker in given])

    def _quietest(self, given: Sequence[_Statistics], seen: np.ndarray) -> np.ndarray:
        compute = _FILTERS.get(self._settings.type, _normalized)
        made = []
        for one in given:
            weights = compute(one, self._settings)
            made.append(_filtered(weights, seen))
            if self._settings.type == "gev_ban":
                made[-1] *= _normalization(weights, one.minimized)[:, None]
        if len(made) == 1:
            return made[0]
        choice = np.abs(made).argmin(axis=0)
        return np.take_along_axis(np.stack(made), choice[None], axis=0)[0]


def _filtered(weights: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Outputs (bins, frames) of filters (bins, rows)."""
    return (weights.conj()[:, None] @ seen)[:, 0]
