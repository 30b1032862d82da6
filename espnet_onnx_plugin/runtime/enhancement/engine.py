"""Enhancement and separation of mixtures: from waveforms to waveforms."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Enhancement, Manifest
from espnet_onnx_plugin.bundle.enhancement import (
    Beamforming,
    Diffusion,
    Direct,
    KMeans,
    Segmental,
    SoftKMeans,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.opening import OpenedModel
from espnet_onnx_plugin.runtime.enhancement import stft
from espnet_onnx_plugin.runtime.enhancement.beamformer import BeamformingSeparation
from espnet_onnx_plugin.runtime.enhancement.clustering import ClusteredSeparation
from espnet_onnx_plugin.runtime.enhancement.diffusion import DiffusionSeparation
from espnet_onnx_plugin.runtime.enhancement.direct import DirectSeparation
from espnet_onnx_plugin.runtime.enhancement.options import EnhOptions
from espnet_onnx_plugin.runtime.enhancement.resample import resample
from espnet_onnx_plugin.runtime.enhancement.segmental import SegmentalSeparation
from espnet_onnx_plugin.runtime.enhancement.segments import Stitching
from espnet_onnx_plugin.runtime.enhancement.stream import MixtureStream
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


#: Makes outputs (outputs, samples) of a mixture (samples[, channels]).
Separate = Callable[[np.ndarray], np.ndarray]

#: What runs each method.
_METHODS: Mapping[type, Callable[[Bundle, Device], Separation]] = {
    Direct: DirectSeparation,
    Segmental: SegmentalSeparation,
    Diffusion: DiffusionSeparation,
    Beamforming: BeamformingSeparation,
    KMeans: ClusteredSeparation,
    SoftKMeans: ClusteredSeparation,
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


def to_peak(made: np.ndarray) -> np.ndarray:
    """Outputs (outputs, samples), each brought to a peak of 0.9, as ESPnet does."""
    return made / np.abs(made).max(axis=1, keepdims=True) * np.float32(0.9)


class Separator(OpenedModel[EnhOptions]):
    """A bundle's model. A task's class makes it a drop-in for ESPnet's.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.

    Attributes:
        num_spk: how many waveforms it makes of a mixture.
        ref_channel: the channel that they stand for.
        seconds: of the newest call, by part: separator, which is what the method does.
    """

    options_class: type[EnhOptions] = EnhOptions

    def _open(self) -> None:
        self.options = self._options
        self.enhancement = enhancement_of(self.bundle.manifest)
        self.num_spk = self.enhancement.outputs
        self.ref_channel = self.enhancement.ref_channel
        if self.options.ref_channel is not None:
            self.ref_channel = self.options.ref_channel
        method = _METHODS[type(self.enhancement.method)]
        self._separation = method(self.bundle, self.device)
        if isinstance(self._separation, DiffusionSeparation):
            self._separation.noise = Noise(self.options.seed)
        self.seconds = {"separator": 0.0}

    def begin_job(self) -> None:
        """Draw on as ESPnet's command does, which seeds before it builds the model."""
        if isinstance(self._separation, DiffusionSeparation):
            self._separation.noise = Noise(self.options.seed)
            self._separation.noise.skip(self._separation.method.drawn)

    def check(self, mix: np.ndarray, fs: int) -> np.ndarray:
        """A mixture (samples[, channels]) as the graphs read it, in float32.

        Args:
            mix: (samples[, channels]).
            fs: samples a second.

        Raises:
            PluginError: if the model cannot take it.
        """
        return self._long_enough(self._read(mix), fs)

    def _read(self, mix: np.ndarray) -> np.ndarray:
        mix = read_by(self.enhancement, mix)
        channels = 1 if mix.ndim == 1 else mix.shape[1]
        if channels > 1 and not -channels <= self.ref_channel < channels:
            raise PluginError(
                f"ref_channel {self.ref_channel} is not one of the {channels} channels"
            )
        return mix

    def _long_enough(self, mix: np.ndarray, fs: int) -> np.ndarray:
        if len(mix) < self._shortest(fs):
            raise PluginError(
                f"a mixture of {len(mix)} samples is too short, the model needs "
                f"{self._shortest(fs)}"
            )
        return mix

    def _shortest(self, fs: int) -> int:
        """The fewest samples that the model can take.

        Raises:
            PluginError: if it cannot take this rate.
        """
        analysis = self.enhancement.analysis
        if analysis is None or analysis.default_fs is None:
            shortest = self.enhancement.min_length
            inside = self.enhancement.forward_rate
            return shortest if inside is None else (shortest - 1) * fs // inside + 1
        analysis, most = stft.at_rate(analysis, fs), self.enhancement.max_bins
        if analysis.hop_length < 1 or (most is not None and analysis.bins > most):
            raise PluginError(
                f"{fs} samples a second are not a rate that the model can take: "
                "resample the mixture"
            )
        return analysis.shortest

    def mode(self, category: int | None) -> np.ndarray:
        """Which way a mixture is processed, ().

        Args:
            category: number of its kind, or None.

        Raises:
            PluginError: if the model does not know it, or has no way of that kind.
        """
        known, modes = self.enhancement.categories, self.enhancement.modes
        if category is None or not known:
            return np.array(0, np.int64)
        if not 0 <= category < len(known):
            raise PluginError(
                f"category {category} is none of the model's {len(known)}, which begin "
                "with 0"
            )
        number = int(known[category].endswith("_reverb"))
        if modes is not None and number >= modes:
            raise PluginError(
                f"category {known[category]}: the model has no memory for mixtures "
                "whose reverberation is taken away"
            )
        return np.array(number, np.int64)

    def _waveforms(
        self, mix: np.ndarray, fs: int, others: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Outputs (outputs, samples) of one mixture.

        Args:
            mix: (samples[, channels]), checked.
            fs: samples a second.
            others: what else the method reads.
        """
        self.seconds = {"separator": 0.0}
        samples, inside = len(mix), self.enhancement.forward_rate
        if inside is not None:
            if mix.ndim == 2 and mix.shape[1] > 1:
                raise PluginError(
                    "a model that always works at one rate (always_forward_in_48k) "
                    "takes one channel: ESPnet would resample along the channels"
                )
            mix = resample(mix.T, fs, inside).T
        separate = functools.partial(self._separate, fs=fs, others=others)
        if self.options.segments is not None:
            separate = functools.partial(self._in_segments, separate, fs)
        made = self._levelled(separate, mix)
        if inside is not None:
            made = resample(made, inside, fs)[:, :samples]
        if self.options.normalize_output_wav:
            made = to_peak(made)
        return made

    def _channel_weights(self, mix: np.ndarray) -> np.ndarray:
        """One of the reference channel and zeros of the others, or equal ones."""
        channels = 1 if mix.ndim == 1 else mix.shape[1]
        if channels == 1:
            return np.ones(1, np.float32)
        if self.enhancement.averages and self.options.ref_channel is None:
            return np.full(channels, 1 / channels, np.float32)
        return np.eye(channels, dtype=np.float32)[self.ref_channel]

    def stream(self, fs: int = 8000, scale: float = 1.0) -> MixtureStream:
        """Begin a stream that is separated segment by segment, as they come.

        It gets what the whole mixture gets with these segments, unless the model wants
        mixtures of variance 1: each segment is brought to that by itself.

        Args:
            fs: samples a second.
            scale: factor of the outputs.

        Raises:
            PluginError: if there are no segments.
        """
        if self.options.segments is None:
            raise PluginError(
                "the model takes mixtures whole: to separate a stream, set "
                "segment_size and hop_size"
            )
        if self.enhancement.forward_rate is not None:
            raise PluginError(
                "a model that always works at one rate (always_forward_in_48k) takes "
                "mixtures whole, not streams"
            )
        separate = functools.partial(self._separate, fs=fs, others={})

        def segment(mix: np.ndarray) -> np.ndarray:
            return self._levelled(separate, self._long_enough(mix, fs))

        begin = functools.partial(self._stitching, segment, fs)
        return MixtureStream(
            begin, self._read, self.num_spk, fs, scale, begin().latency
        )

    def _stitching(self, separate: Separate, fs: int) -> Stitching:
        assert self.options.segments is not None
        scale = self.options.normalize_segment_scale
        reference = self._reference if scale else None
        return Stitching(separate, fs, self.options.segments, reference)

    def _in_segments(self, separate: Separate, fs: int, mix: np.ndarray) -> np.ndarray:
        stitching = self._stitching(separate, fs)
        known, rest = stitching.add(mix), stitching.end()
        return rest if known is None else np.concatenate((known, rest), axis=1)

    def _levelled(self, separate: Separate, mix: np.ndarray) -> np.ndarray:
        """Separate with the variance that the model wants, and take it back."""
        deviation = self._deviation(mix)
        if deviation is None:
            return separate(mix)
        channel = self.ref_channel if len(deviation) > 1 else 0
        return separate(mix / deviation) * deviation[channel]

    def _reference(self, mix: np.ndarray) -> np.ndarray:
        # ESPnet takes sample ref_channel of every channel where there are several
        # (enh_inference.py: speech_seg[:, self.ref_channel] is of axis 1, samples).
        return mix if mix.ndim == 1 else mix[self.ref_channel]

    def _deviation(self, mix: np.ndarray) -> np.ndarray | None:
        """Standard deviation (1,) or (channels,), or None where it is left alone."""
        if self.enhancement.variance is None:
            return None
        axis = 0 if self.enhancement.variance == "channel" else None
        return np.atleast_1d(np.std(mix, axis=axis, ddof=1)).astype(np.float32)

    def _separate(
        self, mix: np.ndarray, fs: int, others: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Outputs (outputs, samples) of a mixture or a segment of one."""
        inputs: dict[str, Any] = {"speech": mix, "mode": np.array(0), **others}
        inputs["ref_channel"] = np.array(self.ref_channel, np.int64)
        inputs["channel_weights"] = self._channel_weights(mix)
        analysis, synthesis = self.enhancement.analysis, self.enhancement.synthesis
        if analysis is not None:
            spectrum = stft.transform(mix, stft.at_rate(analysis, fs))
            inputs["spectrum"] = np.stack((spectrum.real, spectrum.imag), axis=-1)
        start = time.perf_counter()
        made = self._separation(inputs)
        self.seconds["separator"] += time.perf_counter() - start
        if synthesis is None:
            return made
        spectra = np.ascontiguousarray(made).view(np.complex64)[..., 0]
        return stft.inverse(spectra, stft.at_rate(synthesis, fs), len(mix))
