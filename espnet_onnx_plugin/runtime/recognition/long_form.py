"""Speech that is longer than a model was trained on, window by window.

Models with a decoder write timestamps, which say where the next window begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.bundle.search import Prompted
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.releases import Conventions
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.io.speech import check_rate, prepare
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

logger = logging.getLogger(__name__)

#: A file, or (samples,) or (samples, channels).
Audio = str | Path | np.ndarray

#: Start and end in seconds, and text.
Segment = tuple[float, float, str | None]


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
        read = READERS["sound"](str(speech), expected.dtype)
        check_rate(str(speech), read, expected)
        array = read.array
        speech = array.mean(axis=1, dtype=np.float64) if array.ndim == 2 else array
    return prepare(np.asarray(speech), expected)


def _named_seconds(symbol: str) -> float | None:
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
        threshold: str | None,
    ) -> Timestamps:
        """The timestamps of a model.

        Args:
            search: the manifest's description.
            converter: of the model.
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

    def utterances(self, tokens: Sequence[int]) -> tuple[list[Sequence[int]], int]:
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


def window_length(search: Prompted) -> int:
    """Samples that all speech is brought to."""
    return int(search.fs * search.speech_length)


def one_window(speech: np.ndarray, expected: Speech, search: Prompted) -> np.ndarray:
    """Speech as the graphs read it: as many samples as in training.

    Args:
        speech: (samples,) or (samples, channels).
        expected: the model's input.
        search: the manifest's description.
    """
    window = prepare(np.asarray(speech), expected)
    window = fixed_length(window, window_length(search))
    logger.info("speech length: %d", len(window))
    return window


def segments(
    speech: np.ndarray,
    search: Prompted,
    times: Timestamps,
    converter: TokenConverter,
    recognize: Callable[[np.ndarray, str | None], Sequence[int]],
    first_text: str | None,
    skip_last_chunk_threshold: float,
) -> Iterator[Segment]:
    """Recognize speech window by window.

    A window begins where the timestamps say that the last whole utterance ended.

    Args:
        speech: (samples,).
        search: the manifest's description.
        times: timestamps of the model.
        converter: of the model.
        recognize: tokens of a window, behind language and task, given the text before.
        first_text: the text before the first window.
        skip_last_chunk_threshold: seconds; a shorter rest is left out.
    """
    fs, length = search.fs, window_length(search)
    offset, previous = 0, first_text
    while offset < len(speech):
        begin = offset / fs
        logger.info("Current start time in seconds: %.2f", begin)
        window = speech[offset : offset + length]
        if len(window) / fs < skip_last_chunk_threshold:
            logger.warning(
                "Skip the last chunk as it's too short: %.2fs", len(window) / fs
            )
            break
        utterances, next_begin = times.utterances(recognize(window, previous))
        previous = ""
        for start, *tokens, stop in utterances:
            text = converter.tokens2text(converter.ids2tokens(tokens))
            previous += text or ""
            yield (
                round(times.seconds(start) + begin, 2),
                round(times.seconds(stop) + begin, 2),
                text,
            )
        advance = round(times.seconds(next_begin) * fs)
        if advance <= 0:  # ESPnet before 202611 goes on for ever
            logger.warning("Skip to the end of the window, which begins its rest")
            advance = length
        offset += advance
