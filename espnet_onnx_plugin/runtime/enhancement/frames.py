"""Separators that work through a stream frame by frame, with a state between frames."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, FrameStream
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.enhancement import stft as fourier
from espnet_onnx_plugin.runtime.enhancement.enhancer import enhancement_of

#: Frames of a run of the graph: more are no faster, and take memory.
MOST = 256


@dataclass(frozen=True, eq=False)
class FrameState:
    """State of a stream between two frames.

    Attributes:
        number: frames so far.
        values: what the graph keeps, by name.
    """

    number: int
    values: Mapping[str, Value]


class FrameSeparation:
    """Runs the graph ``separator_step``, on frames of waveforms.

    Args:
        bundle: where it lies.
        device: where it runs.

    Raises:
        PluginError: if the model cannot work through a stream.

    Attributes:
        stream: settings of the frames.
        outputs: how many waveforms a frame gives.
    """

    def __init__(self, bundle: Bundle, device: Device):
        described = enhancement_of(bundle.manifest)
        if described.stream is None:
            raise PluginError(
                f"{bundle.path} takes mixtures whole: a stream takes a separator that "
                "ESPnet can run frame by frame (tcn or skim with causal: true, rnn "
                "with rnn_type lstm or gru) between encoder and decoder conv or stft"
            )
        self.stream: FrameStream = described.stream
        self.outputs = described.outputs
        self._step = Session(bundle, "separator_step", device)
        self._stft = described.analysis

    def start(self) -> FrameState:
        """The state before the first frame."""
        return FrameState(0, self._step.initial_states({}))

    @functools.cached_property
    def behind_silence(self) -> FrameState:
        """The state before the first frame in ESPnet's streaming."""
        state = self.start()
        if self.stream.silence:
            shape = self.stream.silence, self.stream.frame_size
            _, state = self(np.zeros(shape, np.float32), state)
        return FrameState(0, state.values)

    def __call__(
        self, frames: np.ndarray, state: FrameState, as_espnet: bool = False
    ) -> tuple[np.ndarray, FrameState]:
        """Separate the next frames.

        Args:
            frames: (frames, frame_size) of the mixture, float32; at least one.
            state: before them.
            as_espnet: whether spectra are never normalized, which ESPnet's streaming
                forgets.

        Returns:
            (outputs, frames, frame_size), to be added up, and the state behind them.
        """
        made = []
        while len(frames):
            most, segment = MOST, self.stream.segment
            if segment is not None:
                most = min(most, segment - state.number % segment)
            now, frames = frames[:most], frames[most:]
            waves, values = self._run(now, state.values, as_espnet)
            state = FrameState(state.number + len(now), values)
            made.append(waves)
        return np.concatenate(made, axis=1), state

    def _run(
        self, frames: np.ndarray, values: Mapping[str, Value], as_espnet: bool
    ) -> tuple[np.ndarray, Mapping[str, Value]]:
        if self._stft is None:
            made, values = self._step.step({"speech": frames}, values)
            return made["waveforms"], values
        stft = replace(self._stft, normalized=self._stft.normalized and not as_espnet)
        left = (stft.n_fft - stft.win_length) // 2
        right = stft.n_fft - stft.win_length - left
        padded = np.pad(frames, [(0, 0), (left, right)])
        spectrum = fourier.spectrum_of(padded, stft)
        parts = np.stack((spectrum.real, spectrum.imag), axis=-1)
        made, values = self._step.step({"spectrum": parts}, values)
        spectra = np.ascontiguousarray(made["spectra"]).view(np.complex64)[..., 0]
        waves = fourier.frames_of(spectra, stft)
        return waves[..., left : left + stft.win_length], values

    @functools.cached_property
    def weight(self) -> np.ndarray | None:
        """Weights of a frame in the sum (frame_size,); None: sums stay as they are."""
        if self._stft is None:
            return None
        left = (self._stft.n_fft - self._stft.win_length) // 2
        window = fourier.window_of(self._stft)[left : left + self._stft.win_length]
        return window.astype(np.float32) ** 2


class OverlapAdd:
    """Frames that are added up as they come.

    Args:
        stream: settings of the frames.
        outputs: how many waveforms they give.
        weight: see :attr:`FrameSeparation.weight`.
    """

    def __init__(self, stream: FrameStream, outputs: int, weight: np.ndarray | None):
        self._hop, self._weight = stream.hop_length, weight
        rows = outputs + (weight is not None)
        #: Sums that later frames reach; the last row is of the weights.
        self._sums: np.ndarray = np.zeros(
            (rows, stream.frame_size - self._hop), np.float32
        )

    def add(self, frames: np.ndarray) -> np.ndarray:
        """Samples (outputs, samples) that no later frame reaches.

        Args:
            frames: (outputs, frames, frame_size), at least one.
        """
        _, count, size = frames.shape
        if self._weight is not None:
            weights = np.broadcast_to(self._weight, (1, count, size))
            frames = np.concatenate((frames, weights))
        sums = fourier.overlapped(frames, self._hop)
        sums[:, : self._sums.shape[1]] += self._sums
        known = count * self._hop
        self._sums = sums[:, known:].copy()
        return self._divided(sums[:, :known])

    def rest(self) -> np.ndarray:
        """Samples that the last frame reaches."""
        return self._divided(self._sums)

    def _divided(self, sums: np.ndarray) -> np.ndarray:
        if self._weight is None:
            return sums
        return fourier.divided(sums[:-1], sums[-1])


class FrameByFrame:
    """A mixture that is separated frame by frame, as it comes.

    Args:
        separation: makes waveforms of its frames.
        deviation: standard deviation that the mixture is divided by, and the outputs
            multiplied.
    """

    def __init__(self, separation: FrameSeparation, deviation: float):
        self._separation, self._settings = separation, separation.stream
        self._deviation = np.float32(deviation)
        self._state = separation.start()
        self._adding = OverlapAdd(
            separation.stream, separation.outputs, separation.weight
        )
        self._ahead = self._settings.padding  # sums before the first sample
        self._taken = self._given = 0
        #: From the next frame on, and the last samples, which the end reflects.
        self._waiting: np.ndarray = np.zeros(0, np.float32)
        self._last = self._waiting

    def add(self, samples: np.ndarray) -> np.ndarray | None:
        """Separate on, see :class:`~.stream.Progress`."""
        padding = self._settings.padding
        before, self._taken = self._taken, self._taken + len(samples)
        self._last = np.concatenate((self._last, samples))[-padding - 1 :].copy()
        self._waiting = np.concatenate((self._waiting, samples))
        if self._taken <= padding:
            return None
        if before <= padding:
            reflected = self._waiting[padding:0:-1]
            self._waiting = np.concatenate((reflected, self._waiting))
        return self._frames()

    def _frames(self) -> np.ndarray | None:
        """Separate the frames that are there."""
        size, hop = self._settings.frame_size, self._settings.hop_length
        count = (len(self._waiting) - size) // hop + 1
        if count < 1:
            return None
        windows = np.lib.stride_tricks.sliding_window_view(self._waiting, size)
        frames = windows[: (count - 1) * hop + 1 : hop] / self._deviation
        self._waiting = self._waiting[count * hop :].copy()
        made, self._state = self._separation(frames, self._state)
        return self._behind(self._adding.add(made))

    def _behind(self, made: np.ndarray) -> np.ndarray:
        """Samples of the mixture, of those that were added up."""
        cut = min(self._ahead, made.shape[1])
        self._ahead -= cut
        made = made[:, cut:]
        self._given += made.shape[1]
        return made * self._deviation

    def end(self) -> np.ndarray:
        """Give the rest, see :class:`~.stream.Progress`.

        Raises:
            PluginError: if the mixture is too short.
        """
        padding, size = self._settings.padding, self._settings.frame_size
        shortest = max(padding + 1, size - 2 * padding)
        if self._taken < shortest:
            raise PluginError(
                f"a mixture of {self._taken} samples is too short, the model needs "
                f"{shortest}"
            )
        given, made = self._given, None
        if padding:
            reflected = self._last[-2::-1]
            self._waiting = np.concatenate((self._waiting, reflected))
            made = self._frames()
        rest = self._behind(self._adding.rest())
        made = rest if made is None else np.concatenate((made, rest), axis=1)
        # Samples that no frame reaches are zeros.
        missing = self._taken - given
        return np.pad(made[:, :missing], [(0, 0), (0, max(0, missing - made.shape[1]))])
