"""What a bundle makes of utterances, and how far that is from another's result."""

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budget import Quality
from espnet_onnx_plugin.evaluate.graphs import noise, search_options
from espnet_onnx_plugin.evaluate.quality import Reading, Result
from espnet_onnx_plugin.evaluate.recorder import TIMED, Feeds, Recorder
from espnet_onnx_plugin.runtime.io.data import Source, read_scp, usable
from espnet_onnx_plugin.runtime.io.progress import progress
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel
from espnet_onnx_plugin.tasks import open_model

logger = logging.getLogger(__name__)

#: Decoding the set with the fp32 bundle stops after this time; what was decoded by then
#: is the set.
MAX_SECONDS = 900.0

#: A token of a transcript that says how it is spoken: language, task, time.
SPECIAL = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class Utterances:
    """The audio of a reading, and what was said.

    Attributes:
        source: the audio; noise stands in where it is None.
        texts: transcripts in Kaldi's format, one file for each speaker; none: unknown.
        options: ESPnet's decoding options; those of :func:`search_options` where None.
    """

    source: Optional[Source] = None
    texts: Sequence[Path] = ()
    options: Optional[Mapping[str, Any]] = None

    #: What the command takes such input as.
    option = "--calibration_scp"

    @property
    def real(self) -> bool:
        """Whether the audio is given."""
        return self.source is not None

    @property
    def kind(self) -> str:
        """What a manifest calls it."""
        return "real" if self.real else "noise"

    def reader(self, model: Bundle) -> "Reader":
        """Read with the fp32 bundle."""
        return Reader(model, self)

    def of(self, model: Bundle) -> Iterator[Tuple[str, np.ndarray, Dict[str, str]]]:
        """Utterances that the model can take: id, audio, and what else it reads."""
        speech = model.manifest.speech
        return noise(speech) if self.source is None else usable(self.source, speech)

    def search(self, model: Bundle) -> Mapping[str, Any]:
        """The decoding options."""
        return search_options(model) if self.options is None else self.options

    def as_dict(self) -> Optional[Dict[str, Any]]:
        """For the manifest: what decides the reading."""
        if self.source is None:
            return None
        return dict(
            scp=str(self.source.path),
            type=self.source.type,
            limit=self.source.limit,
            others={name: str(path) for name, path in self.source.others.items()},
            texts=list(map(str, self.texts)),
            options=self.options and dict(self.options),
        )

    def transcripts(self, model: Bundle) -> Optional[List[Mapping[str, str]]]:
        """What each speaker said, by utterance.

        Raises:
            PluginError: if there are other numbers of texts and speakers.
        """
        if not self.texts:
            return None
        speakers = model.manifest.speakers or 1
        if len(self.texts) != speakers:
            raise PluginError(
                f"--calibration_text names {len(self.texts)} file(s) for a model of "
                f"{speakers} speaker(s): give one for each"
            )
        tables = list(map(read_scp, self.texts))
        if model.manifest.task in ("s2t", "s2t_ctc"):
            return [
                {k: SPECIAL.sub(" ", t) for k, t in table.items()} for table in tables
            ]
        return tables


def _best(speech2text: SpeechModel, audio: np.ndarray, **others: str) -> Result:
    results = speech2text(audio, **others)
    if isinstance(results, tuple):  # those of intermediate CTC come with them
        results = results[0]
    lists = [results] if speech2text.bundle.manifest.speakers is None else results
    tokens: List[int] = []
    texts: List[str] = []
    for nbest in lists:
        if not nbest:
            texts.append("")
            continue
        text, _, token_int, *_ = nbest[0]
        # Of a text with tokens that say how it is spoken, ESPnet scores the rest.
        text = speech2text.lines(nbest[0]).get("text_nospecial", text)
        tokens += token_int
        texts.append(text or " ".join(map(str, token_int)))
    return Result(tokens, texts)


class Reader:
    """Decodes the utterances, with the fp32 bundle once and with others as they come.

    Args:
        model: the fp32 bundle.
        utterances: what to decode.

    Attributes:
        reference: what the fp32 bundle gave.
        feeds: inputs of each graph as the search fed them, by role.
    """

    def __init__(self, model: Bundle, utterances: Utterances):
        self._model = model
        self._utterances = utterances
        self._options = utterances.search(model)
        self._transcripts = utterances.transcripts(model)
        feeds = Recorder(model)
        self.reference = self._decode(model, feeds, MAX_SECONDS)
        self.feeds: Mapping[str, List[Feeds]] = feeds.by_role

    def quality(self, bundle: Bundle) -> Quality:
        """Decode with another bundle what the fp32 one has decoded, and compare."""
        return Quality.of(self._decode(bundle), self.reference, self._transcripts)

    def _open(self, bundle: Bundle, **session: Any) -> SpeechModel:
        return open_model(bundle, session={"emulate": True, **session}, **self._options)

    def _decode(
        self,
        bundle: Bundle,
        feeds: Optional[Recorder] = None,
        max_seconds: float = float("inf"),
    ) -> Reading:
        watched = {} if feeds is None else {"watch": feeds.keep}
        speech2text = self._open(bundle, **watched)
        # Its lines on each utterance are for who decodes one.
        logging.getLogger("espnet_onnx_plugin.runtime").setLevel(logging.WARNING)
        known = None if feeds is not None else self.reference
        source = self._utterances.source
        total = len(known) if known is not None else (source and source.limit) or 0
        start = time.monotonic()
        reading: Dict[str, Result] = {}
        for key, audio, others in progress(self._utterances.of(bundle), total):
            if known is not None and len(reading) == len(known):
                break
            if time.monotonic() - start > max_seconds:
                logger.warning(
                    "decoding takes long: the budget is measured on %d utterances",
                    len(reading),
                )
                break
            reading[key] = _best(speech2text, audio, **others)
            if feeds is not None:
                feeds.next_utterance()
        logger.info(
            "decoded %d utterances in %.0f s", len(reading), time.monotonic() - start
        )
        return reading

    def speed(self, bundle: Bundle) -> Dict[str, Dict[str, float]]:
        """Seconds in encoder and search of the fp32 bundle and another.

        They take turns, utterance by utterance, after one for warming up, so that what
        else the machine does meets both.
        """
        sides = {"fp32": self._open(self._model), "quantized": self._open(bundle)}
        seconds = {side: {"encoder": 0.0, "search": 0.0} for side in sides}
        for i, (_, audio, others) in enumerate(self._utterances.of(bundle)):
            if i == TIMED:
                break
            for side, speech2text in sides.items():
                if i == 0:
                    speech2text(audio, **others)
                speech2text(audio, **others)
                timing = speech2text.timing
                encoder = timing.frontend + timing.encoder
                seconds[side]["encoder"] += encoder
                seconds[side]["search"] += sum(timing) - encoder
        return {
            side: {name: round(value, 4) for name, value in parts.items()}
            for side, parts in seconds.items()
        }
