"""What a bundle makes of utterances, and how far that is from another's result."""

import logging
import re
import time
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.quantize.lowering import Feeds
from espnet_onnx_plugin.runtime import edits
from espnet_onnx_plugin.runtime.compare import noise, search_options
from espnet_onnx_plugin.runtime.data import Source, read_scp, usable
from espnet_onnx_plugin.runtime.model import SpeechModel
from espnet_onnx_plugin.runtime.progress import progress
from espnet_onnx_plugin.runtime.session import Value
from espnet_onnx_plugin.runtime.tasks import open_model

logger = logging.getLogger(__name__)

#: Words of a hypothesis and of its reference.
Pair = Tuple[Sequence[str], Sequence[str]]

#: Decoding the set with the fp32 bundle stops after this time; what was decoded by then
#: is the set.
MAX_SECONDS = 900.0

#: Utterances whose inputs of every graph are kept, for the comparison of graphs.
RECORDED = 4

#: Utterances whose first inputs are kept, for the ranges of convolutions.
CALIBRATED = 20

#: Utterances on which the speed is measured.
TIMED = 5

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


@dataclass(frozen=True)
class Result:
    """Best hypothesis of an utterance: of several speakers, all tokens in a row."""

    token_int: List[int]
    texts: List[str]


Reading = Mapping[str, Result]


def token_agreement(reading: Reading, reference: Reading) -> float:
    """Share of the reference's tokens that a reading gives alike, by edit distance."""
    tokens = sum(len(result.token_int) for result in reference.values())
    errors = sum(
        edits.edit_distance(reading[key].token_int, result.token_int)
        for key, result in reference.items()
    )
    return 1 - errors / max(tokens, 1)


def identical(reading: Reading, reference: Reading) -> int:
    """Number of utterances with the same tokens."""
    return sum(reading[k].token_int == r.token_int for k, r in reference.items())


def error_rate(reading: Reading, transcripts: Sequence[Mapping[str, str]]) -> float:
    """Errors in percent of the transcripts' words; of their characters where none of
    them holds a space, as in languages that are written without.

    Of several speakers, hypotheses go with the transcripts to which their error rates
    add up to the least, as in ESPnet's ``eval_perm_free_error.py``.

    Args:
        transcripts: of each speaker, by utterance.

    Raises:
        PluginError: if an utterance has no transcript, or all are empty.
    """
    missing = [key for key in reading for said in transcripts if key not in said]
    if missing:
        raise PluginError(
            f"--calibration_text has no line for utterance '{missing[0]}' of "
            "--calibration_scp; give the text of the same data directory"
        )
    said = {key: [table[key].split() for table in transcripts] for key in reading}
    spaceless = all(len(line) < 2 for lines in said.values() for line in lines)
    split = list if spaceless else str.split
    pairs: List[Pair] = []
    for key, result in reading.items():
        references = [split(" ".join(line)) for line in said[key]]
        hypotheses = [split(" ".join(text.split())) for text in result.texts]
        pairs += _assigned(hypotheses, references)
    rate = edits.error_rate(pairs)
    if rate is None:
        raise PluginError("--calibration_text holds no words for these utterances")
    return rate


def _assigned(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> List[Pair]:
    """Pairs of several speakers, assigned for the lowest sum of error rates."""

    def rates(order: Sequence[Sequence[str]]) -> float:
        return sum(
            edits.edit_distance(hypothesis, reference) / max(len(reference), 1)
            for hypothesis, reference in zip(order, references)
        )

    return list(zip(min(permutations(hypotheses), key=rates), references))


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
        feeds = _Feeds(model)
        self.reference = self._decode(model, feeds, MAX_SECONDS)
        self.feeds: Mapping[str, List[Feeds]] = feeds.by_role

    def read(self, bundle: Bundle) -> Reading:
        """Decode with another bundle what the fp32 one has decoded."""
        return self._decode(bundle)

    def _open(self, bundle: Bundle, **session: Any) -> SpeechModel:
        return open_model(bundle, session=session, **self._options)

    def _decode(
        self,
        bundle: Bundle,
        feeds: "Optional[_Feeds]" = None,
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


class _Feeds:
    """Inputs of a bundle's graphs, kept for some utterances and steps."""

    def __init__(self, model: Bundle) -> None:
        self.by_role: Dict[str, List[Feeds]] = {}
        # A search may call a graph by another role than the manifest does.
        graphs = model.manifest.graphs
        self._roles = {graph.file.name: role for role, graph in graphs.items()}
        self._utterance = 0
        self._calls: Dict[str, int] = {}

    def next_utterance(self) -> None:
        self._utterance += 1
        self._calls = {}

    def keep(self, graph: Graph, feeds: Mapping[str, Value]) -> None:
        """Take what a graph is about to be run with."""
        role = self._roles[graph.file.name]
        call = self._calls.get(role, 0)
        self._calls[role] = call + 1
        # Steps 0, 1, 2, 4, 8, ...: the early ones, and some of the long histories.
        wanted = call & (call - 1) == 0 if self._utterance < RECORDED else call == 0
        if wanted and self._utterance < CALIBRATED:
            self.by_role.setdefault(role, []).append(
                {
                    name: np.array(v if isinstance(v, np.ndarray) else v.numpy())
                    for name, v in feeds.items()
                }
            )
