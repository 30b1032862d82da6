"""Enhancement and separation of mixtures as ESPnet's commands do it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.opening import OpenedModel
from espnet_onnx_plugin.runtime.enhancement.enhancer import Enhancer
from espnet_onnx_plugin.runtime.enhancement.options import ExtractionOptions
from espnet_onnx_plugin.runtime.enhancement.resample import resample
from espnet_onnx_plugin.runtime.enhancement.segments import Stitching
from espnet_onnx_plugin.runtime.enhancement.stream import MixtureStream
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

#: Makes outputs (outputs, samples) of a mixture (samples[, channels]).
Separate = Callable[[np.ndarray], np.ndarray]


def to_peak(made: np.ndarray) -> np.ndarray:
    """Outputs (outputs, samples), each brought to a peak of 0.9, as ESPnet does."""
    return made / np.abs(made).max(axis=1, keepdims=True) * np.float32(0.9)


class Separator(OpenedModel[ExtractionOptions]):
    """A bundle's model. A task's class makes it a drop-in for ESPnet's.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.

    Attributes:
        num_spk: how many waveforms it makes of a mixture.
        ref_channel: the channel that they stand for.
    """

    options_class: type[ExtractionOptions] = ExtractionOptions

    def _open(self) -> None:
        self.options = self._options
        self._enhancer = Enhancer(self.bundle, self.device, self.options.ref_channel)
        self.enhancement = self._enhancer.described
        self.num_spk = self.enhancement.outputs
        self.ref_channel = self._enhancer.ref_channel
        self._enhancer.begin(self.options.seed)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the newest call by part: separator, which is the method's."""
        return {"separator": self._enhancer.seconds}

    @property
    def noise(self) -> Noise | None:
        """Generator that the mixtures draw from in turn; None where none does."""
        return self._enhancer.noise

    def begin_job(self) -> None:
        """Draw on as ESPnet's command does, which seeds before it builds the model."""
        self._enhancer.begin(self.options.seed, job=True)

    def check(self, mix: np.ndarray, fs: int) -> np.ndarray:
        """A mixture (samples[, channels]) as the graphs read it, in float32.

        Args:
            mix: (samples[, channels]).
            fs: samples a second.

        Raises:
            PluginError: if the model cannot take it.
        """
        return self._enhancer.check(mix, fs)

    def batch(self, speech_mix: np.ndarray) -> np.ndarray:
        """Mixtures (utterances, samples[, channels]), as ESPnet's classes take them.

        Raises:
            PluginError: if they are not.
        """
        speech_mix = np.asarray(speech_mix)
        if speech_mix.ndim < 2:
            raise PluginError(
                f"speech_mix of shape {speech_mix.shape} has to be (utterances, "
                "samples) or (utterances, samples, channels)"
            )
        return speech_mix

    def mode(self, category: int | None) -> np.ndarray:
        """Number of the way in which a mixture is processed, ().

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
        self._enhancer.seconds = 0.0
        samples, inside = len(mix), self.enhancement.forward_rate
        if inside is not None:
            if mix.ndim == 2 and mix.shape[1] > 1:
                raise PluginError(
                    "a model that always works at one rate (always_forward_in_48k) "
                    "takes one channel: ESPnet would resample along the channels"
                )
            mix = resample(mix.T, fs, inside).T
        separate = functools.partial(self._enhancer, fs=fs, others=others)
        if self.options.segments is not None:
            separate = functools.partial(self._in_segments, separate, fs)
        made = self._levelled(separate, mix)
        if inside is not None:
            made = resample(made, inside, fs)[:, :samples]
        if self.options.normalize_output_wav:
            made = to_peak(made)
        return made

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
        others = {"mode": self.mode(None)}
        separate = functools.partial(self._enhancer, fs=fs, others=others)

        def segment(mix: np.ndarray) -> np.ndarray:
            return self._levelled(separate, self._enhancer.long_enough(mix, fs))

        begin = functools.partial(self._stitching, segment, fs)
        return MixtureStream(
            begin, self._enhancer.read, self.enhancement, fs, scale, begin().latency
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
