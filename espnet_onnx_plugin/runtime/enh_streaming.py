"""Enhancement and separation of streams: ``enh_inference_streaming``'s counterpart."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.opening import OpenedModel
from espnet_onnx_plugin.runtime.enhancement.enhancer import enhancement_of, read_by
from espnet_onnx_plugin.runtime.enhancement.frames import (
    FrameByFrame,
    FrameSeparation,
    FrameState,
    OverlapAdd,
)
from espnet_onnx_plugin.runtime.enhancement.options import EnhStreamingOptions
from espnet_onnx_plugin.runtime.enhancement.stream import MixtureStream
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


class SeparateSpeechStreaming(OpenedModel[EnhStreamingOptions]):
    """Separate a mixture frame by frame; a drop-in for ESPnet's class of that name.

    ESPnet's class separates frames that were cut from a whole mixture; :meth:`stream`
    takes a mixture as it comes, and gives what the whole mixture would get.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.

    Raises:
        PluginError: if the bundle cannot be read, or its model takes mixtures whole.

    Attributes:
        num_spk: how many waveforms it makes of a mixture.
        ref_channel: the channel that they stand for: streams have one.

    Examples:
        >>> separate_speech = SeparateSpeechStreaming("exp/enh_train/onnx/fp32")
        >>> stream = separate_speech.stream(fs=16000)
        >>> for piece in pieces:
        ...     play(stream.feed(piece))
        >>> play(stream.finish())
    """

    task = "enh"
    noise: Noise | None = None  # nothing is drawn
    options_class: type[EnhStreamingOptions] = EnhStreamingOptions

    def _open(self) -> None:
        self.enhancement = enhancement_of(self.bundle.manifest)
        self._separation = FrameSeparation(self.bundle, self.device)
        self._settings = self._separation.stream
        self.num_spk = self.enhancement.outputs
        self.ref_channel = self.enhancement.ref_channel
        if self._options.ref_channel is not None:
            self.ref_channel = self._options.ref_channel
        self.streaming_states: list[FrameState] | None = None

    @property
    def latency(self) -> int:
        """Samples that have to come from one on before its outputs are known."""
        return self._settings.frame_size

    def stream(
        self, fs: int = 8000, scale: float = 1.0, deviation: float = 1.0
    ) -> MixtureStream:
        """Begin a stream.

        Args:
            fs: samples a second.
            scale: factor of the outputs.
            deviation: standard deviation of the mixture, where the model wants mixtures
                of variance 1: that of all of it is not known yet. ESPnet's streaming
                takes mixtures as they are.
        """
        if not deviation > 0:
            raise PluginError(f"deviation {deviation} has to be above 0")
        begin = functools.partial(FrameByFrame, self._separation, deviation)
        check = functools.partial(read_by, self.enhancement)
        return MixtureStream(begin, check, self.enhancement, fs, scale, self.latency)

    def frame(self, audio: np.ndarray) -> list[np.ndarray]:
        """Cut mixtures into frames, as ``streaming_frame`` of ESPnet's encoders.

        Args:
            audio: (utterances, samples).

        Returns:
            The frames, each (utterances, frame_size).

        Raises:
            PluginError: if there is not one.
        """
        audio = np.asarray(audio)
        settings = self._settings
        if audio.ndim != 2:
            raise PluginError(
                f"audio of shape {audio.shape} has to be (utterances, samples)"
            )
        padding, samples = settings.padding, audio.shape[1]
        if samples <= padding or samples + 2 * padding < settings.frame_size:
            raise PluginError(f"a mixture of {samples} samples has no frame")
        audio = np.pad(audio, [(0, 0), (padding, padding)], mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(
            audio, settings.frame_size, axis=1
        )
        return list(np.moveaxis(windows[:, :: settings.hop_length], 1, 0))

    def __call__(self, speech_mix: np.ndarray, fs: int = 8000) -> list[np.ndarray]:
        """Separate the next frame of each of several mixtures.

        Args:
            speech_mix: (utterances, frame_size), of :meth:`frame`.
            fs: without effect, as in ESPnet.

        Returns:
            Of each speaker (utterances, frame_size), for :meth:`merge`.

        Raises:
            PluginError: if it is no such frame.
        """
        speech_mix = np.asarray(speech_mix, np.float32)
        if speech_mix.ndim != 2 or speech_mix.shape[1] != self._settings.frame_size:
            raise PluginError(
                f"speech_mix of shape {speech_mix.shape} has to be (utterances, "
                f"{self._settings.frame_size}): cut it with frame"
            )
        states = self.streaming_states
        if states is None:
            states = [self._separation.behind_silence] * len(speech_mix)
        if len(states) != len(speech_mix):
            raise PluginError(
                f"there were {len(states)} utterances before, now {len(speech_mix)}: "
                "call reset between mixtures"
            )
        made = [
            self._separation(frame[None], state, as_espnet=True)
            for frame, state in zip(speech_mix, states)
        ]
        self.streaming_states = [state for _, state in made]
        return list(np.stack([waves[:, 0] for waves, _ in made], axis=1))

    def simulate(self, audio: np.ndarray) -> list[np.ndarray]:
        """Separate whole mixtures as streams: :meth:`frame`, calls, :meth:`merge`.

        The graph takes many frames at once.

        Args:
            audio: (utterances, samples).

        Returns:
            Of each speaker (utterances, samples), to the first not covered by a frame.
        """
        audio = np.asarray(audio, np.float32)
        frames = np.stack(self.frame(audio), axis=1)
        start, lengths = self._separation.behind_silence, np.full(1, audio.shape[1])
        made = [self._separation(f, start, as_espnet=True)[0] for f in frames]
        chunks = np.moveaxis(np.stack(made, axis=1), 2, 1)
        return [self.merge(speaker, lengths) for speaker in chunks]

    def merge(
        self, chunks: Sequence[np.ndarray], ilens: np.ndarray | None = None
    ) -> np.ndarray:
        """Add up separated frames, as ``streaming_merge`` of ESPnet's decoders.

        Samples on which no window has weight are 0, where ESPnet divides 0 by 0.

        Args:
            chunks: frames of one speaker, each (utterances, frame_size).
            ilens: (utterances,), samples of the mixtures.

        Returns:
            (utterances, samples).

        Raises:
            PluginError: if there is no frame.
        """
        if not len(chunks):
            raise PluginError("there are no chunks to merge")
        frames = np.stack(chunks, axis=1)
        settings, weight = self._settings, self._separation.weight
        adding = OverlapAdd(settings, len(frames), weight)
        made = np.concatenate((adding.add(frames), adding.rest()), axis=1)
        padding, samples = settings.padding, made.shape[1]
        wanted = (
            samples - 2 * padding if ilens is None else int(np.asarray(ilens).max())
        )
        made = made[:, padding : padding + wanted]
        if weight is None:  # of convolutions ESPnet's are as long as is asked for
            made = np.pad(made, [(0, 0), (0, wanted - made.shape[1])])
        return made

    def reset(self) -> None:
        """Forget the frames before; what comes next are other mixtures."""
        self.streaming_states = None
