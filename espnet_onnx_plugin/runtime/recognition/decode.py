"""The loop over utterances: batches of similar length, results in the order given."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.runtime.core.encoder import Utterance
from espnet_onnx_plugin.runtime.core.session import GraphError
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.io.lists import named, of_utterance
from espnet_onnx_plugin.runtime.io.speech import check_rate
from espnet_onnx_plugin.runtime.io.writer import IncompleteError
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

#: Number of failed utterances that an error names; the log names them all.
NAMED = 5


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
    """

    key: str
    results: Results
    audio_seconds: float
    total_seconds: float = 0.0
    timing: Timing = Timing(*[0.0] * len(Timing._fields))


def decode(
    speech2text: AnyModel,
    utterances: Iterable[tuple[str, Audio]],
    batch_size: int,
    others: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Iterator[Decoded]:
    """Decode utterances; a too short one gets ESPnet's placeholder.

    Where a graph fails on an utterance, the others are decoded all the same.

    Args:
        speech2text: the model and its search.
        utterances: ids and audio.
        batch_size: how many are decoded together.
        others: inputs besides the audio, by name and utterance.

    Raises:
        PluginError: naming an utterance that the model cannot take.
        IncompleteError: after the last one, naming those on which a graph failed.
    """
    utterances = iter(utterances)
    size = 1 if batch_size == 1 else batch_size * WINDOW
    total, several = 0, 0
    failed: dict[str, GraphError] = {}
    expected = speech2text.speech
    while window := list(islice(utterances, size)):
        total += len(window)
        several += sum(_channels(audio, expected) > 1 for _, audio in window)
        yield from _decode_window(speech2text, window, batch_size, others, failed)
    if several:
        logger.warning(
            "%d of %d utterances have more than one channel, of which the first is "
            "decoded, as in ESPnet",
            several,
            total,
        )
    if failed:
        reasons = [f"'{key}' ({e})" for key, e in list(failed.items())[:NAMED]]
        if len(failed) > NAMED:
            reasons.append(f"and {len(failed) - NAMED} more, which the log names")
        raise IncompleteError(
            f"{len(failed)} of {total} utterances could not be decoded: "
            + ", ".join(reasons)
        )


def _channels(audio: Audio, expected: Speech) -> int:
    """Number of channels that one is taken of."""
    if expected.kind != "waveform" or expected.average_channels:
        return 1
    return audio.array.shape[1] if audio.array.ndim == 2 else 1


def _decode_window(
    speech2text: AnyModel,
    window: list[tuple[str, Audio]],
    batch_size: int,
    others: Mapping[str, Mapping[str, str]],
    failed: dict[str, GraphError],
) -> list[Decoded]:
    decoded: dict[str, Decoded] = {}
    prepared: dict[str, Utterance] = {}
    seconds: dict[str, float] = {}
    expected = speech2text.speech
    for key, audio in window:
        check_rate(key, audio, expected)
        # The audio itself: the model's input may be padded.
        seconds[key] = expected.seconds(len(audio.array))
        given = of_utterance(key, others)
        try:
            with named(key):
                prepared[key] = speech2text.prepare(audio.array, **given)
        except TooShortUttError as e:
            logger.warning("Utterance %s %s", key, e)
            decoded[key] = Decoded(key, speech2text.placeholder(), seconds[key])
    by_length = sorted(prepared, key=lambda key: len(prepared[key]), reverse=True)
    for first in range(0, len(by_length), batch_size):
        batch = {key: prepared[key] for key in by_length[first : first + batch_size]}
        decoded.update(_decode_what_can_be(speech2text, batch, seconds, failed))
    return [decoded[key] for key, _ in window if key not in failed]


def _decode_what_can_be(
    speech2text: AnyModel,
    batch: dict[str, Utterance],
    seconds: Mapping[str, float],
    failed: dict[str, GraphError],
) -> dict[str, Decoded]:
    """Decode a batch; where a graph fails, each utterance alone."""
    try:
        return _decode_batch(speech2text, batch, seconds)
    except GraphError as e:
        if len(batch) == 1:
            [key] = batch
            logger.error("utterance '%s': %s", key, e)
            failed[key] = e
            return {}
    decoded: dict[str, Decoded] = {}
    for key, utterance in batch.items():
        decoded.update(
            _decode_what_can_be(speech2text, {key: utterance}, seconds, failed)
        )
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
