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
from espnet_onnx_plugin.runtime.core.encoder import Utterance
from espnet_onnx_plugin.runtime.core.session import GraphError, MemoryShort
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.io.lists import of_utterance
from espnet_onnx_plugin.runtime.io.speech import check_rate
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError
from espnet_onnx_plugin.runtime.recognition.results import Results, Timing

logger = logging.getLogger(__name__)


class AnyModel(Protocol):
    """A model that recognizes batches of utterances."""

    speech: Speech
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

    def window(
        self, utterances: Iterator[tuple[str, Audio | PluginError]]
    ) -> list[tuple[str, Audio | PluginError]]:
        """The next utterance, or those of which :data:`WINDOW` batches are made."""
        batches = 1 if self._most == 1 else WINDOW
        taken, bins = [], 0
        for key, audio in utterances:
            taken.append((key, audio))
            bins += 0 if isinstance(audio, PluginError) else audio.array.size
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
    expected = speech2text.speech
    utterances = iter(utterances)
    while window := limits.window(utterances):
        total += len(window)
        several += sum(_channels(audio, expected) > 1 for _, audio in window)
        yield from _decode_window(speech2text, window, limits, others)
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


def _decode_window(
    speech2text: AnyModel,
    window: list[tuple[str, Audio | PluginError]],
    limits: BatchLimits,
    others: Mapping[str, Mapping[str, str]],
) -> list[Decoded]:
    decoded: dict[str, Decoded] = {}
    prepared: dict[str, Utterance] = {}
    seconds: dict[str, float] = {}
    expected = speech2text.speech
    for key, audio in window:
        try:
            if isinstance(audio, PluginError):
                raise audio
            check_rate(key, audio, expected)
            # The audio itself: the model's input may be padded.
            seconds[key] = expected.seconds(len(audio.array))
            prepared[key] = speech2text.prepare(
                audio.array, **of_utterance(key, others)
            )
        except TooShortUttError as e:
            logger.warning("Utterance %s %s", key, e)
            decoded[key] = Decoded(key, speech2text.placeholder(), seconds[key])
        except PluginError as e:
            decoded[key] = Decoded(key, speech2text.placeholder(), failure=e)
    sizes = {key: utterance.size for key, utterance in prepared.items()}
    for keys in limits.batches(sizes):
        batch = {key: prepared[key] for key in keys}
        decoded.update(_decode_what_can_be(speech2text, batch, seconds))
    return [decoded[key] for key, _ in window]


def _decode_what_can_be(
    speech2text: AnyModel,
    batch: dict[str, Utterance],
    seconds: Mapping[str, float],
) -> dict[str, Decoded]:
    """Decode a batch; where a graph fails, each utterance alone."""
    try:
        return _decode_batch(speech2text, batch, seconds)
    except GraphError as e:
        if isinstance(e, MemoryShort) and len(batch) > 1:
            raise
        if len(batch) == 1:
            [key] = batch
            failed = Decoded(key, speech2text.placeholder(), seconds[key], failure=e)
            return {key: failed}
    decoded: dict[str, Decoded] = {}
    for key, utterance in batch.items():
        decoded.update(_decode_what_can_be(speech2text, {key: utterance}, seconds))
    return decoded


def _decode_batch(
    speech2text: AnyModel,
    batch: dict[str, Utterance],
    seconds: Mapping[str, float],
) -> dict[str, Decoded]:
    logger.info("utterance: %s", ", ".join(batch))
    start = time.perf_counter()
    all_results: list[Results] = speech2text.batch(list(batch.values()))
    total = time.perf_counter() - start
    length = sum(len(audio) for audio in batch.values())
    decoded = {}
    for (key, audio), results in zip(batch.items(), all_results):
        share = len(audio) / length
        decoded[key] = Decoded(
            key,
            results,
            seconds[key],
            total * share,
            Timing(*(part * share for part in speech2text.timing)),
        )
    return decoded
