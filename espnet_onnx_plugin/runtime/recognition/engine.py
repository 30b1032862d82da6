"""The engine of recognition: a bundle's graphs, opened, encode and search."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded, Encoder, Utterance
from espnet_onnx_plugin.runtime.io.speech import prepare
from espnet_onnx_plugin.runtime.recognition.model import (
    OptionsT,
    RecognitionModel,
    SearchT,
)
from espnet_onnx_plugin.runtime.recognition.results import (
    Lines,
    Result,
    Results,
    Timing,
)
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers, Search
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """A search of a call.

    Attributes:
        made: outputs of the graphs that ran for it, by role.
        roles: of the graphs behind the scorers that have one, by scorer.
        search: the search.
        encoded: its input.
        hypotheses: its output, of each utterance, best first.
        seconds: time spent, by part.
    """

    made: Mapping[str, Encoded]
    roles: Mapping[str, str]
    search: Search
    encoded: Encoded
    hypotheses: list[list[Hypothesis]]
    seconds: Mapping[str, float]


class TooShortUttError(Exception):
    """The input is shorter than the encoder's layers can take, as in ESPnet."""


ResultsT = TypeVar("ResultsT", bound=Results)


class SpeechModel(
    RecognitionModel[OptionsT, SearchT], ABC, Generic[OptionsT, SearchT, ResultsT]
):
    """A bundle's model and its search; base of the classes that stand for ESPnet's.

    It is generic in the decoding options, the kind of search that the manifest
    describes, and the results of an utterance.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.
    """

    def _open(self) -> None:
        self._check_speakers(self.bundle)
        super()._open()
        self._encoder = Encoder(self.bundle, self.device)
        self.search = self._build_search()

    @property
    def of_speakers(self) -> bool:
        """Whether results of each speaker are asked for."""
        return False

    def _check_speakers(self, bundle: Bundle) -> None:
        """Refuse a model of several speakers that nobody asked for, and the reverse."""
        speakers = bundle.manifest.speakers
        if self.of_speakers != (speakers is not None):
            raise PluginError(
                f"the encoder of {bundle.path} tells {speakers or 'no'} speakers "
                f"apart: set multi_asr to {'false' if self.of_speakers else 'true'}"
            )

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        graphs = bundle.manifest.graphs
        ctc_weight = 0.3
        if "decoder" not in graphs:
            ctc_weight = 1.0
        elif "ctc_log_probs" not in graphs["encoder"].outputs:
            ctc_weight = 0.0
        options: dict[str, Any] = dict(
            beam_size=min(beam_size, len(TokenConverter(bundle).token_list)),
            ctc_weight=ctc_weight,
            lm_weight=0.3,
            ngram_weight=0.0,
        )
        attends = "lm" in graphs and "kept" in graphs["lm"].inputs
        if isinstance(bundle.manifest.search, Transducer) and not attends:
            # The default search has no bound, and may take hours for noise. But it
            # alone takes language models of self-attention.
            options["transducer_conf"] = dict(search_type="tsd")
        return options

    @property
    def _has_ctc(self) -> bool:
        return "ctc_log_probs" in self._encoder.outputs

    @abstractmethod
    def _build_search(self) -> Search:
        """Build the search that the manifest describes and the options ask for."""

    def prepare(self, speech: np.ndarray) -> Utterance:
        """Make the graphs' input of an utterance.

        Args:
            speech: (samples,), (samples, channels) or (frames, dim).

        Raises:
            TooShortUttError: where ESPnet raises it.
            PluginError: if the model cannot take it.
        """
        return self._checked(speech)

    def _checked(self, speech: np.ndarray) -> np.ndarray:
        """An input as ESPnet's preprocessor makes it, if it is long enough."""
        expected = self.speech
        speech = prepare(np.asarray(speech), expected)
        logger.info("speech length: %d", len(speech))
        if len(speech) < expected.min_length:
            unit = "samples" if expected.kind == "waveform" else "frames"
            raise TooShortUttError(
                f"has {len(speech)} {unit} and is too short for the encoder (it needs "
                f"{expected.min_length}), return empty results"
            )
        return speech

    def enhance(self, utterances: Sequence[Utterance]) -> Sequence[Utterance]:
        """Utterances that :meth:`prepare` gave, as the encoder hears them.

        Where a model makes speech of several speakers of each, that of one utterance
        comes in a row.
        """
        return utterances

    def encode(self, utterances: Sequence[Utterance]) -> Encoded:
        """Run frontend and encoder on what :meth:`enhance` gave."""
        return self._encoder(utterances)

    def stages(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> Iterator[Stage]:
        """Run the searches of a call, in order."""
        graphs, search = self.bundle.manifest.graphs, self.search
        roles = {name: name for name in search.scorers if name in graphs}
        found = search(encoded, primers)
        made = {"encoder": encoded}
        yield Stage(made, roles, search, encoded, found, search.seconds)

    def batch(
        self, utterances: Sequence[Utterance], primers: Primers | None = None
    ) -> list[ResultsT]:
        """Recognize several utterances together.

        Each gets the result that it gets alone.

        Args:
            utterances: what :meth:`prepare` gave; of similar lengths, for speed.
            primers: the tokens that the hypotheses of each begin with; default: those
                of the options.
        """
        start = time.perf_counter()
        enhanced = self.enhance(utterances)
        frontend = {"frontend": time.perf_counter() - start}
        encoded = self.encode(enhanced)
        stages = list(self.stages(encoded, primers))
        results = self._results(stages)
        spent = [frontend, self._encoder.seconds, *(stage.seconds for stage in stages)]
        seconds: Counter[str] = Counter()
        for one in spent:
            seconds.update(one)
        self.timing = Timing.of(seconds, time.perf_counter() - start)
        return results

    @abstractmethod
    def _results(self, stages: Sequence[Stage]) -> list[ResultsT]:
        """The results of each utterance."""

    @abstractmethod
    def placeholder(self) -> ResultsT:
        """The results of an utterance that is too short for the encoder."""

    def __call__(self, speech: np.ndarray) -> ResultsT:
        """Recognize one utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate, or
                features (frames, dim) where the model has no frontend.

        Returns:
            Up to ``nbest`` tuples (text, token, token_int, hypothesis), best first. For
            a model with intermediate CTC, a pair of that and the tokens of each
            intermediate layer; for one of several speakers, a list of that for each
            speaker, as in ESPnet.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        return self.batch([self.prepare(speech)])[0]

    def recognize(self, speech: np.ndarray, **others: Any) -> ResultsT:
        """Everything that decoding gives for one utterance, see :meth:`__call__`."""
        return self(speech, **others)

    def files(self, results: ResultsT) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path."""
        return results.files()

    def lines(self, result: Result) -> dict[str, Lines]:
        """Lines of a result for ESPnet's files, by the file's name."""
        return result.lines()
