"""How OWSM's models read speech that is longer than what they were trained on.

Models with a decoder write timestamps, which say where the next window begins; those
that are all CTC are read in buffers that overlap.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.bundle.search import Prompted, PromptedCTC
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.releases import Conventions
from espnet_onnx_plugin.runtime.io.data import READERS, check_rate, prepare
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

#: A file, or (samples,) or (samples, channels).
Audio = Union[str, Path, np.ndarray]

#: Start and end in seconds, and text.
Segment = Tuple[float, float, str]

#: Frames of language and task, which the encoder of a CTC model puts in front.
PREFIX_FRAMES = 2


def fixed_length(speech: np.ndarray, length: int) -> np.ndarray:
    """Speech (samples,) with zeros behind it, or cut, to a length in samples."""
    speech = speech[:length]
    return np.pad(speech, (0, length - len(speech)))


def read_speech(speech: Audio, expected: Speech) -> np.ndarray:
    """Speech (samples,) of a file, whose channels are averaged, or of an array.

    Args:
        speech: the file, or (samples,) or (samples, channels).
        expected: the model's input.

    Raises:
        PluginError: if the model cannot take it.
    """
    if isinstance(speech, (str, Path)):
        read = READERS["sound"](str(speech))
        check_rate(str(speech), read, expected)
        array = read.array
        speech = array.mean(axis=1) if array.ndim == 2 else array
    return prepare(np.asarray(speech), expected)


def _named_seconds(symbol: str) -> Optional[float]:
    """The time that a symbol like ``<12.34>`` is named after, or None."""
    try:
        return float(symbol.strip("<>"))
    except ValueError:
        return None


@dataclass(frozen=True)
class Timestamps:
    """The tokens that stand for times in a window.

    Attributes:
        first, last: ids of those of the window's begin and end.
        step: seconds from one to the next.
        threshold: an utterance that ends behind this one was cut off by the window.
    """

    first: int
    last: int
    step: float
    threshold: int

    @staticmethod
    def of(
        search: Prompted,
        converter: TokenConverter,
        conventions: Conventions,
        threshold: Optional[str],
    ) -> "Timestamps":
        """Those of a model.

        Args:
            search: that of its manifest.
            converter: its tokens.
            conventions: of the ESPnet that exported it.
            threshold: the symbol; None for ESPnet's default.

        Raises:
            PluginError: where the tokens and the window contradict each other.
        """
        first, last = search.first_time, search.last_time
        window, step = search.speech_length, search.speech_resolution
        if conventions.s2t_times_span_window:
            names = [converter.token_list[i] for i in (first, last)]
            if last <= first:
                raise PluginError(
                    f"the timestamps {' and '.join(names)} are not in order in the "
                    "token list; correct first_time_symbol and last_time_symbol of "
                    "preprocessor_conf and export again"
                )
            step = window / (last - first)
            begin, end = map(_named_seconds, names)
            if begin is not None and end is not None:
                if abs(end - begin - window) > step:
                    raise PluginError(
                        f"the timestamps {names[0]} to {names[1]} span "
                        f"{end - begin:g} s, but speech_length says {window:g} s; "
                        "correct preprocessor_conf and export again"
                    )
            if threshold is None:  # a second before the end
                late = last - max(1, round(1.0 / step))
                return Timestamps(first, last, step, max(first, late))
        late = converter.token2id("<29.00>" if threshold is None else threshold)
        return Timestamps(first, last, step, late)

    def seconds(self, token: int) -> float:
        """Time of a timestamp in its window."""
        return (token - self.first) * self.step

    def utterances(self, tokens: Sequence[int]) -> Tuple[List[Sequence[int]], int]:
        """The whole utterances of a window, and the timestamp where the next begins.

        Args:
            tokens: of the window, without language and task.

        Returns:
            The tokens of each, its two timestamps around it.
        """
        tokens = list(tokens)
        times = [
            i for i, token in enumerate(tokens) if self.first <= token <= self.last
        ]
        if not times:  # ESPnet before 202611 ends in an error
            return [[self.first, *tokens, self.last]], self.last
        if len(times) == 1:  # an only utterance that has no end
            tokens.append(self.last)
            times.append(len(tokens) - 1)
        next_begin = tokens[times[-1]]
        if len(times) % 2:  # the last utterance only has a start
            times = times[:-1]
        elif len(times) > 2 and next_begin > self.threshold:  # it is incomplete
            next_begin = tokens[times[-2]]
            times = times[:-2]
        pairs = zip(times[::2], times[1::2])
        return [tokens[start : stop + 1] for start, stop in pairs], next_begin


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
    kept: Tuple[slice, ...]
    chunk: Optional[int] = None
    frame_rate: Optional[float] = None

    @staticmethod
    def of(
        search: PromptedCTC,
        fs: int,
        conventions: Conventions,
        context: Optional[float],
        default: float,
    ) -> "Buffers":
        """Those of a model.

        Args:
            search: that of its manifest.
            fs: samples a second.
            conventions: of the ESPnet that exported it.
            context: seconds; None for ESPnet's default.
            default: that one, or the nearest that is a whole number of frames.

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

    def split(self, speech: np.ndarray) -> List[np.ndarray]:
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
            windows: those of each window, (frames,).
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
