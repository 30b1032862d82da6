"""Beamforming by masks that graphs estimate, with dereverberation before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.enhancement import Beamforming, Wpe
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.enhancement.dereverberation import (
    LEAST_POWER,
    dereverberated,
)
from espnet_onnx_plugin.runtime.enhancement.spatial import Filters, Reference


class BeamformingSeparation:
    """Runs mask estimators and filters, as ESPnet's ``NeuralBeamformer``.

    Args:
        bundle: where the graphs lie.
        device: where they run; the filters are computed by numpy.
    """

    def __init__(self, bundle: Bundle, device: Device):
        described = bundle.manifest.enhancement
        assert described is not None and isinstance(described.method, Beamforming)
        self._method, self._speakers = described.method, described.outputs
        self._graphs = {
            role: Session(bundle, role, device) for role in bundle.manifest.graphs
        }

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Spectra of each speaker, see :class:`~.enhancer.Separation`.

        Raises:
            PluginError: if a single channel has several speakers, or no filter can be
                computed of the mixture.
        """
        pairs = np.ascontiguousarray(inputs["spectrum"])
        spectrum = pairs.view(np.complex64)[..., 0].transpose(2, 1, 0)
        try:
            if self._method.wpe is not None:
                spectrum = self._dereverberated(spectrum, self._method.wpe)
            if spectrum.shape[1] == 1:
                made = self._unfiltered(spectrum)
            else:
                made = self._beamformed(spectrum, int(inputs["ref_channel"]))
        except np.linalg.LinAlgError:
            raise PluginError(
                "the mixture has channels that are silent or alike, of which ESPnet "
                "cannot compute a filter either; leave them out"
            )
        made = made.swapaxes(1, 2).astype(np.complex64)
        return np.stack((made.real, made.imag), axis=-1)

    def _masks(self, role: str, spectrum: np.ndarray) -> np.ndarray:
        """Masks (masks, bins, channels, frames) of a spectrum."""
        magnitude = np.abs(spectrum.transpose(1, 2, 0))
        masks = run(self._graphs[role], {"magnitude": magnitude})["masks"]
        return masks.transpose(0, 3, 1, 2)

    def _dereverberated(self, spectrum: np.ndarray, wpe: Wpe) -> np.ndarray:
        double, made = spectrum.astype(np.complex128), spectrum
        for iteration in range(wpe.iterations):
            power = made.real**2 + made.imag**2
            if iteration == 0 and "dereverberation_masks" in self._graphs:
                power = power * self._masks("dereverberation_masks", spectrum)[0]
            power = np.maximum(power.mean(axis=1), LEAST_POWER)
            made = dereverberated(double, power, wpe).astype(np.complex64)
        return made

    def _unfiltered(self, spectrum: np.ndarray) -> np.ndarray:
        """One channel (1, bins, frames), which ESPnet hands on."""
        if self._speakers > 1:
            raise PluginError(
                f"the mixture has 1 channel, of which a beamformer cannot make "
                f"{self._speakers} speakers: give several channels"
            )
        return spectrum[None, :, 0]

    def _beamformed(self, spectrum: np.ndarray, ref_channel: int) -> np.ndarray:
        filters = Filters(
            spectrum.astype(np.complex128),
            self._masks("masks", spectrum),
            self._method,
        )
        return filters([self._reference(c, ref_channel) for c in filters.speech])

    def _reference(self, speech: np.ndarray, ref_channel: int) -> Reference:
        """The channel that speech is to be as in, or weights of all.

        Args:
            speech: its covariance (bins, channels, channels).
            ref_channel: -1: all are weighed, as by ESPnet's ``AttentionReference``.
        """
        if ref_channel >= 0 or "reference" not in self._graphs:
            return ref_channel
        covariance = speech.astype(np.complex64)
        diagonal = np.arange(covariance.shape[-1])
        covariance[:, diagonal, diagonal] = 0
        mean = covariance.sum(axis=-1).T / np.float32(len(diagonal) - 1)
        features = np.sqrt(mean.real**2 + mean.imag**2 + np.float32(1e-6))
        weights = run(self._graphs["reference"], {"features": features})["weights"]
        return weights.astype(np.float64)
