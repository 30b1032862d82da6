"""Speech that is longer than a CTC model was trained on, in buffers that overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle.search import PromptedCTC
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Encoded
from espnet_onnx_plugin.runtime.core.releases import Conventions
from espnet_onnx_plugin.runtime.recognition.long_form import fixed_length
from espnet_onnx_plugin.runtime.search.greedy import best_of_frames

#: Frames of language and task, which the encoder of a CTC model puts in front.
PREFIX_FRAMES = 2


@dataclass(frozen=True)
class Buffers:
    """Windows that overlap: each is context, chunk and context.

    Attributes:
        size, step, context: of windows, of their chunks, and of what is put around the
            speech, in samples.
        kept: which frames of a window are kept, slice by slice.
        chunk: how many those are; None: as many as there are.
        frame_rate: frames a second, of which no more are kept than the speech has;
            None: all are.
    """

    size: int
    step: int
    context: int
    kept: tuple[slice, ...]
    chunk: int | None = None
    frame_rate: float | None = None

    @staticmethod
    def of(
        search: PromptedCTC,
        fs: int,
        conventions: Conventions,
        context: float | None,
        default: float,
    ) -> Buffers:
        """The buffers of a model.

        Args:
            search: the manifest's description.
            fs: samples a second.
            conventions: of the ESPnet that exported it.
            context: seconds; None for ESPnet's default.
            default: that one; the nearest whole number of frames is taken if need be.

        Raises:
            PluginError: where the encoder's frames and the context do not fit.
        """
        rate, window = search.frames_per_second, search.speech_length
        if rate is None:
            raise PluginError(
                "long speech needs an input_layer of which ESPnet knows the rate "
                "(conv2d, conv2d1, conv2d2, conv2d6 or conv2d8)"
            )
        whole = conventions.s2t_ctc_keeps_whole_frames
        if context is None:
            context = round(default * rate) / rate if whole else default
        chunk = window - 2 * context
        if not (context >= 0 and fs * chunk >= 1):
            raise PluginError(
                f"context_len_in_secs {context:g} must not be negative and be less "
                f"than half of the model's window of {window:g} s"
            )
        lengths = window, chunk, context
        if not whole:
            size, step, edge = (int(fs * seconds) for seconds in lengths)
            cut = int(rate * context)
            kept = slice(int(rate * window)), slice(cut, -cut)
            return Buffers(size, step, edge, kept)
        for name, seconds in dict(
            speech_length=window, context_len_in_secs=context
        ).items():
            if abs(rate * seconds - round(rate * seconds)) > 1e-6:
                raise PluginError(
                    f"{name} {seconds:g} is no whole number of the encoder's frames, "
                    f"of which a second has {rate:g}"
                )
        size, step, edge = (round(fs * seconds) for seconds in lengths)
        cut = round(rate * context)
        frames = round(rate * window) - 2 * cut
        kept = slice(PREFIX_FRAMES, None), slice(cut, cut + frames)
        return Buffers(size, step, edge, kept, frames, rate)

    def split(self, speech: np.ndarray) -> list[np.ndarray]:
        """The windows of speech (samples,)."""
        speech = np.pad(speech, self.context)
        windows = []
        for first in range(0, len(speech), self.step):
            window = speech[first : first + self.size]
            windows.append(fixed_length(window, self.size))
            if len(window) < self.size:
                break
        return windows

    def join(self, windows: Sequence[np.ndarray], seconds: float) -> np.ndarray:
        """The best tokens of speech, frame by frame.

        Args:
            windows: best tokens of each window, (frames,).
            seconds: duration of the speech.

        Raises:
            PluginError: where the encoder gives fewer frames than a chunk needs.
        """
        chunks = []
        for chunk in windows:
            for part in self.kept:
                chunk = chunk[part]
            if self.chunk is not None and len(chunk) < self.chunk:
                raise PluginError(
                    "context_len_in_secs is too short: the encoder loses more frames "
                    "at the end of a window"
                )
            chunks.append(chunk)
        joined = np.concatenate(chunks)
        if self.frame_rate is None:
            return joined
        return joined[: round(seconds * self.frame_rate)]


class Windows(NamedTuple):
    """An utterance, cut into windows.

    Attributes:
        inputs: the encoder's input for each.
        seconds: duration of the utterance.
        whole: whether the only window is the utterance itself, with nothing to join.
    """

    inputs: list[Accompanied]
    seconds: float
    whole: bool = False


def best_frames(
    utterances: Sequence[Windows],
    buffers: Buffers,
    encode: Callable[[Sequence[Accompanied]], Encoded],
    batch_size: int,
) -> list[np.ndarray]:
    """The best token of each frame, (frames,) for each utterance.

    Args:
        utterances: windows of each.
        buffers: how they were cut.
        encode: runs the encoder.
        batch_size: windows that are encoded together.
    """
    inputs = [one for utterance in utterances for one in utterance.inputs]
    frames: list[np.ndarray] = []
    for first in range(0, len(inputs), batch_size):
        frames += best_of_frames(encode(inputs[first : first + batch_size]))
    joined = []
    for own, seconds, whole in utterances:
        parts, frames = frames[: len(own)], frames[len(own) :]
        joined.append(parts[0] if whole else buffers.join(parts, seconds))
    return joined
