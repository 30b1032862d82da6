"""The loop over utterances: batches of similar length, results in the order given."""

import logging
import time
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Dict, Iterable, Iterator, List, Mapping, Tuple

from espnet_onnx_plugin.runtime.data import Audio, check_rate, of_utterance
from espnet_onnx_plugin.runtime.encoder import Utterance
from espnet_onnx_plugin.runtime.model import SpeechModel, TooShortUttError
from espnet_onnx_plugin.runtime.results import Results, Timing

logger = logging.getLogger(__name__)

#: Batches of which the utterances are sorted by length together: enough for batches of
#: similar lengths, few enough to keep their audio in memory.
WINDOW = 16


@dataclass(frozen=True)
class Decoded:
    """An utterance, decoded.

    Attributes:
        key: the utterance's id.
        results: what the model gives for it.
        audio_seconds: how long it lasts.
        total_seconds: what it took; in a batch, its share by the duration of what the
            model reads, which may be padded.
        timing: likewise, by part.
    """

    key: str
    results: Results
    audio_seconds: float
    total_seconds: float = 0.0
    timing: Timing = Timing(*[0.0] * len(Timing._fields))


def decode(
    speech2text: SpeechModel,
    utterances: Iterable[Tuple[str, Audio]],
    batch_size: int,
    others: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Iterator[Decoded]:
    """Decode utterances; a too short one gets ESPnet's placeholder.

    Args:
        speech2text: the model and its search.
        utterances: ids and audio.
        batch_size: how many are decoded together.
        others: inputs besides the audio, by name and utterance.

    Raises:
        PluginError: naming an utterance that the model cannot take.
    """
    utterances = iter(utterances)
    size = 1 if batch_size == 1 else batch_size * WINDOW
    while window := list(islice(utterances, size)):
        yield from _decode_window(speech2text, window, batch_size, others)


def _decode_window(
    speech2text: SpeechModel,
    window: List[Tuple[str, Audio]],
    batch_size: int,
    others: Mapping[str, Mapping[str, str]],
) -> List[Decoded]:
    decoded: Dict[str, Decoded] = {}
    prepared: Dict[str, Utterance] = {}
    seconds: Dict[str, float] = {}
    expected = speech2text.bundle.manifest.speech
    for key, audio in window:
        check_rate(key, audio, expected)
        # Of the audio itself: what is prepared of it may be padded.
        seconds[key] = expected.seconds(len(audio.array))
        try:
            prepared[key] = speech2text.prepare(
                audio.array, **of_utterance(key, others)
            )
        except TooShortUttError as e:
            logger.warning("Utterance %s %s", key, e)
            decoded[key] = Decoded(key, speech2text.placeholder(), seconds[key])
    by_length = sorted(prepared, key=lambda key: len(prepared[key]), reverse=True)
    for first in range(0, len(by_length), batch_size):
        batch = {key: prepared[key] for key in by_length[first : first + batch_size]}
        decoded.update(_decode_batch(speech2text, batch, seconds))
    return [decoded[key] for key, _ in window]


def _decode_batch(
    speech2text: SpeechModel,
    batch: Dict[str, Utterance],
    seconds: Mapping[str, float],
) -> Dict[str, Decoded]:
    logger.info("utterance: %s", ", ".join(batch))
    start = time.perf_counter()
    all_results: List[Results] = speech2text.batch(list(batch.values()))
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
