"""Mixtures, whole, to the waveforms that a model's graphs make of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Enhancement, Manifest
from espnet_onnx_plugin.bundle.enhancement import (
    Beamforming,
    Diffusion,
    Direct,
    KMeans,
    MultiMask,
    Segmental,
    SoftKMeans,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enhancement import stft
from espnet_onnx_plugin.runtime.enhancement.beamformer import BeamformingSeparation
from espnet_onnx_plugin.runtime.enhancement.clustering import ClusteredSeparation
from espnet_onnx_plugin.runtime.enhancement.diffusion import DiffusionSeparation
from espnet_onnx_plugin.runtime.enhancement.direct import DirectSeparation
from espnet_onnx_plugin.runtime.enhancement.multi_mask import MultiMaskSeparation
from espnet_onnx_plugin.runtime.enhancement.segmental import SegmentalSeparation
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


class Separation(Protocol):
    """A method, opened: what its graphs are given and give.

    Inputs by name: ``speech`` (samples[, channels]) or ``spectrum`` (frames,
    [channels,] bins, 2) with real and imaginary parts, in float32; ``ref_channel``
    (), and ``channel_weights`` (channels,), by which channels are joined; ``mode`` (),
    which way of processing; whatever else the task gives. Outputs are (outputs,
    samples), or complex parts (outputs, frames, bins, 2) where the model has a
    synthesis.
    """

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray: ...


#: What runs each method.
_METHODS: Mapping[type, Callable[[Bundle, Device], Separation]] = {
    Direct: DirectSeparation,
    Beamforming: BeamformingSeparation,
    KMeans: ClusteredSeparation,
    SoftKMeans: ClusteredSeparation,
    Segmental: SegmentalSeparation,
    Diffusion: DiffusionSeparation,
    MultiMask: MultiMaskSeparation,
}


def enhancement_of(manifest: Manifest) -> Enhancement:
    """Description of what a model makes of mixtures.

    Raises:
        PluginError: if the manifest has none.
    """
    if manifest.enhancement is None:
        raise PluginError(
            "manifest.yaml says nothing of enhancement; export the bundle again"
        )
    return manifest.enhancement


def read_by(described: Enhancement, mix: np.ndarray) -> np.ndarray:
    """A mixture, or a part of one, as a model reads it, in float32.

    Args:
        described: the model.
        mix: (samples,) or (samples, channels).

    Raises:
        PluginError: if the model cannot take it.
    """
    mix = np.asarray(mix, np.float32)
    if mix.ndim not in (1, 2) or not mix.size:
        raise PluginError(f"a mixture of shape {mix.shape} has no samples")
    if not np.isfinite(mix).all():
        raise PluginError("the mixture has samples that are not numbers")
    wanted = described.channels
    channels = 1 if mix.ndim == 1 else mix.shape[1]
    if wanted is not None and channels != wanted:
        raise PluginError(
            f"the mixture has {channels} channel(s), the model takes {wanted}"
        )
    if wanted == 1 and mix.ndim == 2:
        return mix[:, 0]
    return mix[:, None] if wanted != 1 and mix.ndim == 1 else mix


class Enhancer:
    """The graphs of a model and what stands around them, as ``forward_enhance`` of
    ``espnet2.enh.espnet_model.ESPnetEnhancementModel``.

    Args:
        bundle: where the graphs lie.
        device: where they run.
        ref_channel: channel that the outputs stand for; None: the model's.

    Attributes:
        described: the model.
        ref_channel: as given, or the model's.
        seconds: that the method has taken since it was set to 0.
    """

    def __init__(self, bundle: Bundle, device: Device, ref_channel: int | None = None):
        self.described = enhancement_of(bundle.manifest)
        self._chosen = ref_channel is not None
        self.ref_channel = self.described.ref_channel
        if ref_channel is not None:
            self.ref_channel = ref_channel
        self._separation = _METHODS[type(self.described.method)](bundle, device)
        self.seconds = 0.0

    @property
    def noise(self) -> Noise | None:
        """Generator that the mixtures draw from in turn; None where none does."""
        return getattr(self._separation, "noise", None)

    def begin(self, seed: int, job: bool = False) -> None:
        """Draw from now on as after a seed.

        Args:
            seed: of all that the method draws, if it does.
            job: whether numbers are left out that ESPnet's job draws before.
        """
        if isinstance(self._separation, DiffusionSeparation):
            self._separation.begin(seed, job)

    def check(self, mix: np.ndarray, fs: int | None = None) -> np.ndarray:
        """A mixture (samples[, channels]) as the graphs read it, in float32.

        Args:
            mix: (samples[, channels]).
            fs: samples a second; None: as in training.

        Raises:
            PluginError: if the model cannot take it.
        """
        return self.long_enough(self.read(mix), fs)

    def read(self, mix: np.ndarray) -> np.ndarray:
        """A mixture or a part of one of any length, as :meth:`check`."""
        mix = read_by(self.described, mix)
        channels = 1 if mix.ndim == 1 else mix.shape[1]
        if channels > 1 and not -channels <= self.ref_channel < channels:
            raise PluginError(
                f"ref_channel {self.ref_channel} is not one of the {channels} channels"
            )
        return mix

    def long_enough(self, mix: np.ndarray, fs: int | None) -> np.ndarray:
        """Pass on what :meth:`read` gave, unless it is too short."""
        shortest = self._shortest(fs)
        if len(mix) < shortest:
            raise PluginError(
                f"a mixture of {len(mix)} samples is too short, the model needs "
                f"{shortest}"
            )
        return mix

    def _shortest(self, fs: int | None) -> int:
        """The fewest samples that the model can take.

        Raises:
            PluginError: if it cannot take this rate.
        """
        described = self.described
        if fs is None:
            return described.min_length
        if described.analysis is None or described.analysis.default_fs is None:
            inside, shortest = described.forward_rate, described.min_length
            return shortest if inside is None else (shortest - 1) * fs // inside + 1
        analysis, most = stft.at_rate(described.analysis, fs), described.max_bins
        if analysis.hop_length < 1 or (most is not None and analysis.bins > most):
            raise PluginError(
                f"{fs} samples a second are not a rate that the model can take: "
                "resample the mixture"
            )
        return analysis.shortest

    def _channel_weights(self, mix: np.ndarray) -> np.ndarray:
        """One of the reference channel and zeros of the others, or equal ones."""
        channels = 1 if mix.ndim == 1 else mix.shape[1]
        if channels == 1:
            return np.ones(1, np.float32)
        if self.described.averages and not self._chosen:
            return np.full(channels, 1 / channels, np.float32)
        return np.eye(channels, dtype=np.float32)[self.ref_channel]

    def __call__(
        self,
        mix: np.ndarray,
        fs: int | None = None,
        others: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> np.ndarray:
        """Outputs (outputs, samples) of a mixture or a segment of one.

        Args:
            mix: (samples[, channels]), checked.
            fs: samples a second; None: as in training.
            others: what else the method reads.
        """
        inputs, synthesis = self._inputs(mix, fs, others), self.described.synthesis
        start = time.perf_counter()
        made = self._separation(inputs)
        self.seconds += time.perf_counter() - start
        if synthesis is None:
            return made
        spectra = np.ascontiguousarray(made).view(np.complex64)[..., 0]
        return stft.inverse(spectra, stft.at_rate(synthesis, fs), len(mix))

    def encode(self, mix: np.ndarray) -> dict[str, np.ndarray]:
        """Features that masks for any number of speakers are made of, by name.

        Args:
            mix: (samples,), checked; of a model whose method is :class:`.MultiMask`.
        """
        assert isinstance(self._separation, MultiMaskSeparation)
        inputs, start = self._inputs(mix, None, {}), time.perf_counter()
        made = self._separation.encode(inputs)
        self.seconds += time.perf_counter() - start
        return made

    def _inputs(
        self, mix: np.ndarray, fs: int | None, others: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Everything that a method may read, see :class:`Separation`."""
        inputs: dict[str, Any] = {"speech": mix, "mode": np.array(0, np.int64)}
        inputs.update(others)
        inputs["ref_channel"] = np.array(self.ref_channel, np.int64)
        inputs["channel_weights"] = self._channel_weights(mix)
        analysis = self.described.analysis
        if analysis is not None:
            spectrum = stft.transform(mix, stft.at_rate(analysis, fs))
            inputs["spectrum"] = np.stack((spectrum.real, spectrum.imag), axis=-1)
        return inputs
