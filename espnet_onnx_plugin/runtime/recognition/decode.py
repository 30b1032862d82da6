"""The loop over utterances: batches of similar length, results in the order given."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Utterance
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError, MemoryShort
from espnet_onnx_plugin.runtime.core.limits import memory_of
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.io.lists import of_utterance
from espnet_onnx_plugin.runtime.io.speech import check_rate
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError
from espnet_onnx_plugin.runtime.recognition.results import Results, Timing

logger = logging.getLogger(__name__)


class AnyModel(Protocol):
    """A model that recognizes batches of utterances."""

    speech: Speech
    device: Device
    timing: Timing

    def prepare(self, speech: np.ndarray, **others: str) -> Utterance:
        """Make the graphs' input of an utterance."""

    def batch(self, utterances: list[Any]) -> list[Any]:
        """Recognize several utterances together."""

    def placeholder(self) -> Results:
        """The results of an utterance that is too short for the encoder."""


#: Batches of which the utterances are sorted by length together: enough for batches of
#: similar lengths, few enough to keep their audio in memory.
WINDOW = 16

#: What to do about an utterance that needs too much memory.
REMEDY = (
    "segment it (or use a model that decodes long speech by windows, as OWSM), or give "
    "the job more memory"
)


@dataclass(frozen=True)
class Decoded:
    """A decoded utterance.

    Attributes:
        key: the utterance's id.
        results: of the model.
        audio_seconds: how long the audio lasts.
        total_seconds: time that decoding took; in a batch, the utterance's share by the
            duration of the model's input, which may be padded.
        timing: the same by part.
        failure: why the utterance has no results; ``results`` are those of silence.
    """

    key: str
    results: Results
    audio_seconds: float = 0.0
    total_seconds: float = 0.0
    timing: Timing = Timing(*[0.0] * len(Timing._fields))
    failure: PluginError | None = None


@dataclass(frozen=True)
class Prepared:
    """An utterance that waits for its batch.

    Attributes:
        key: its id.
        speech: the graphs' input.
        audio_seconds: how long the audio lasts; the input may be padded.
    """

    key: str
    speech: Utterance
    audio_seconds: float


#: Utterances that are sorted by length together, and those that have been answered.
Window = list[Prepared | Decoded]


@dataclass(frozen=True)
class BatchLimits:
    """How many utterances are decoded together.

    Attributes:
        size: number of utterances. One, which is ESPnet's default, is no limit where
            there is another one.
        bins: padded size, counted as ESPnet counts ``batch_bins`` in training:
            utterances times the samples of the longest, or of features its frames times
            their dimension; None: any. An utterance that is larger is decoded alone.
    """

    size: int = 1
    bins: int | None = None

    @property
    def _most(self) -> float:
        """Number of utterances that a batch never exceeds."""
        return math.inf if self.size == 1 and self.bins else self.size

    def window(self, utterances: Iterator[Prepared | Decoded]) -> Window:
        """The next utterance, or those of which :data:`WINDOW` batches are made."""
        batches = 1 if self._most == 1 else WINDOW
        taken: Window = []
        bins = 0
        for utterance in utterances:
            taken.append(utterance)
            bins += utterance.speech.size if isinstance(utterance, Prepared) else 0
            if len(taken) >= self._most * batches:
                break
            if self.bins is not None and bins >= self.bins * batches:
                break
        return taken

    def batches(self, sizes: Mapping[str, int]) -> Iterator[list[str]]:
        """Divide utterances, given the size of each, the longest first."""
        batch: list[str] = []
        for key in sorted(sizes, key=lambda key: sizes[key], reverse=True):
            if batch:
                padded = (len(batch) + 1) * sizes[batch[0]]
                too_large = self.bins is not None and padded > self.bins
                if too_large or len(batch) == self._most:
                    yield batch
                    batch = []
            batch.append(key)
        if batch:
            yield batch


def decode(
    speech2text: AnyModel,
    utterances: Iterable[tuple[str, Audio | PluginError]],
    limits: BatchLimits = BatchLimits(),
    others: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Iterator[Decoded]:
    """Decode utterances; a too short one gets ESPnet's placeholder.

    One that cannot be read, that the model cannot take or on which a graph fails gets
    the placeholder too, and the reason; the others are decoded all the same.

    Args:
        speech2text: the model and its search.
        utterances: ids and audio, or why that could not be read.
        limits: how many are decoded together.
        others: inputs besides the audio, by name and utterance.

    Raises:
        PluginError: naming a batch that the GPU's memory does not hold.
    """
    total, several = 0, 0

    def prepared() -> Iterator[Prepared | Decoded]:
        nonlocal total, several
        read = iter(utterances)
        while True:
            with memory_of(speech2text.device, REMEDY):
                taken = next(read, None)
            if taken is None:
                return
            key, audio = taken
            total += 1
            several += _channels(audio, speech2text.speech) > 1
            yield _prepare(speech2text, key, audio, of_utterance(key, others))

    waiting = prepared()
    while window := limits.window(waiting):
        yield from _decode_window(speech2text, window, limits)
    if several:
        logger.warning(
            "%d of %d utterances have more than one channel, of which the first is "
            "decoded, as in ESPnet",
            several,
            total,
        )


def _channels(audio: Audio | PluginError, expected: Speech) -> int:
    """Number of channels that one is taken of."""
    if isinstance(audio, PluginError):
        return 1
    if expected.kind != "waveform" or expected.average_channels:
        return 1
    return audio.array.shape[1] if audio.array.ndim == 2 else 1


def _prepare(
    speech2text: AnyModel,
    key: str,
    audio: Audio | PluginError,
    others: Mapping[str, str],
) -> Prepared | Decoded:
    """An utterance as it waits: of its audio only what the graphs read is kept."""
    seconds = 0.0
    expected = speech2text.speech
    try:
        if isinstance(audio, PluginError):
            raise audio
        check_rate(key, audio, expected)
        seconds = expected.seconds(len(audio.array))
        with memory_of(speech2text.device, REMEDY):
            return Prepared(key, speech2text.prepare(audio.array, **others), seconds)
    except TooShortUttError as e:
        logger.warning("Utterance %s %s", key, e)
        return Decoded(key, speech2text.placeholder(), seconds)
    except PluginError as e:
        return Decoded(key, speech2text.placeholder(), failure=e)


def _decode_window(
    speech2text: AnyModel, window: Window, limits: BatchLimits
) -> list[Decoded]:
    waiting = {u.key: u for u in window if isinstance(u, Prepared)}
    decoded = {u.key: u for u in window if isinstance(u, Decoded)}
    order = [utterance.key for utterance in window]
    window.clear()  # the audio of a batch is let go with it
    sizes = {key: utterance.speech.size for key, utterance in waiting.items()}
    for keys in limits.batches(sizes):
        batch = [waiting.pop(key) for key in keys]
        decoded.update(_decode_what_can_be(speech2text, batch))
    return [decoded[key] for key in order]


def _decode_what_can_be(
    speech2text: AnyModel, batch: list[Prepared]
) -> dict[str, Decoded]:
    """Decode a batch; where a graph fails, each utterance alone."""
    try:
        return _decode_batch(speech2text, batch)
    except GraphError as e:
        if isinstance(e, MemoryShort) and len(batch) > 1:
            raise
        if len(batch) == 1:
            [u] = batch
            failed = Decoded(
                u.key, speech2text.placeholder(), u.audio_seconds, failure=e
            )
            return {u.key: failed}
    decoded: dict[str, Decoded] = {}
    for utterance in batch:
        decoded.update(_decode_what_can_be(speech2text, [utterance]))
    return decoded


def _decode_batch(speech2text: AnyModel, batch: list[Prepared]) -> dict[str, Decoded]:
    logger.info("utterance: %s", ", ".join(utterance.key for utterance in batch))
    with memory_of(speech2text.device, REMEDY):
        start = time.perf_counter()
        all_results: list[Results] = speech2text.batch([u.speech for u in batch])
        total = time.perf_counter() - start
    length = sum(len(utterance.speech) for utterance in batch)
    decoded = {}
    for utterance, results in zip(batch, all_results):
        share = len(utterance.speech) / length
        decoded[utterance.key] = Decoded(
            utterance.key,
            results,
            utterance.audio_seconds,
            total * share,
            Timing(*(part * share for part in speech2text.timing)),
        )
    return decoded
