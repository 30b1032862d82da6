"""What decodes the bundles of a task: graphs, search and results put together."""

import logging
import time
from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Union,
)

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded, Encoder, Utterance
from espnet_onnx_plugin.runtime.core.opening import Reopened, make_options, open_bundle
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.io.data import prepare
from espnet_onnx_plugin.runtime.recognition.options import DecodeOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    PLACEHOLDER,
    Lines,
    Result,
    Results,
    Timing,
    result_files,
    result_lines,
    time_marks,
    timed,
)
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.greedy import intermediate_tokens
from espnet_onnx_plugin.runtime.search.scorers import (
    FullScorer,
    LengthBonus,
    NgramScorer,
    Primers,
    graph_scorer,
)
from espnet_onnx_plugin.runtime.search.utterance import (
    BeamSearchConfig,
    Hypothesis,
)
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """A search of a call.

    Attributes:
        made: what graphs made for it, by role.
        roles: of the graphs behind the scorers that have one, by scorer.
        search: it.
        encoded: what it reads.
        hypotheses: what it found, of each utterance, best first.
    """

    made: Mapping[str, Encoded]
    roles: Mapping[str, str]
    search: Any
    encoded: Encoded
    hypotheses: List[List[Hypothesis]]


class TooShortUttError(Exception):
    """The input is shorter than the encoder's layers can take, as in ESPnet."""


class SpeechModel(Reopened):
    """A bundle's model and its search. A task's class makes it a drop-in for ESPnet's.

    Args:
        model_dir: the bundle, or its directory.
        provider: ``cpu`` or ``cuda``.
        threads: CPU threads.
        session: the other attributes of
            :class:`~espnet_onnx_plugin.runtime.core.device.Device`, by name.
        options: ESPnet's decoding options, see :attr:`options_class`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.
    """

    #: That of the bundles which it takes.
    task: str
    #: The dataclass of the decoding options.
    options_class: Any = DecodeOptions
    #: Whether hypotheses come with the decoder's hidden states.
    return_hs = False
    #: Whether the model is asked to tell several speakers apart.
    multi_asr = False

    def __init__(
        self,
        model_dir: Union[str, Path, Bundle],
        provider: str = "cpu",
        threads: int = 1,
        session: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ):
        self._options = make_options(self.options_class, options)
        device = Device(provider, threads, **session)
        bundle = open_bundle(model_dir, device, self.task, type(self).__name__)
        self._check_speakers(bundle)
        self.bundle = bundle
        self.device = device
        self.converter = TokenConverter(self.bundle)
        self._encoder = self._open_encoder()
        self.search = self._build_search()
        #: Length of the n-best list.
        self.nbest = self._options.nbest
        #: Timing of the newest call.
        self.timing = Timing(*[0.0] * len(Timing._fields))

    def _check_speakers(self, bundle: Bundle) -> None:
        """Refuse a model of several speakers that nobody asked for, and the reverse."""
        speakers = bundle.manifest.speakers
        if self.multi_asr != (speakers is not None):
            raise PluginError(
                f"the encoder of {bundle.path} tells {speakers or 'no'} speakers "
                f"apart: set multi_asr to {'false' if self.multi_asr else 'true'}"
            )

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        graphs = bundle.manifest.graphs
        ctc_weight = 0.3
        if "decoder" not in graphs:
            ctc_weight = 1.0
        elif "ctc_log_probs" not in graphs["encoder"].outputs:
            ctc_weight = 0.0
        return dict(
            beam_size=min(beam_size, len(TokenConverter(bundle).token_list)),
            ctc_weight=ctc_weight,
            lm_weight=0.3,
            ngram_weight=0.0,
        )

    def _open_encoder(self) -> Encoder:
        return Encoder(self.bundle, self.device)

    @property
    def _has_ctc(self) -> bool:
        return "ctc_log_probs" in self._encoder.outputs

    def _pre_beam(self, scorers: Mapping[str, FullScorer]) -> bool:
        """Whether the CTC scores the best tokens of the other scorers only."""
        return self._options.ctc_weight != 1.0

    def _build_search(self) -> Any:
        """The search, from :class:`Encoded` to the hypotheses of each utterance."""
        options, search = self._options, self.bundle.manifest.search
        tokens = self.converter.token_list
        if not self._has_ctc and options.ctc_weight > 0:
            raise PluginError("the model has no CTC: set ctc_weight to 0")
        if options.ctm and self.bundle.manifest.speech.frame_shift is None:
            raise PluginError("the model has no CTC to align by: leave ctm out")
        scorers = self._build_scorers(tokens)
        single = bool(set(scorers).intersection(search.single))
        config = BeamSearchConfig(
            beam_size=options.beam_size,
            vocabulary=len(tokens),
            sos=search.sos,
            eos=search.eos,
            blank=search.blank,
            weights=options.weights,
            conventions=conventions(self.bundle.manifest.espnet),
            pre_beam=self._pre_beam(scorers),
            maxlenratio=options.maxlenratio,
            minlenratio=options.minlenratio,
            normalize_length=options.normalize_length,
            primer=self._primer(),
            max_tokens=search.max_tokens,
            return_hs=self.return_hs,
            end_is_candidate=not single,
            # ESPnet's search of one hypothesis at a time has no window.
            ctc_window_margin=0 if single else self._ctc_window_margin,
            token_list=tokens,
        )
        if not any(options.weights[name] for name in (*scorers, "ctc")):
            raise PluginError(
                "no scorer is left: the model has no decoder and ctc_weight is 0"
            )
        logger.info("%s implementation is selected.", self._search_class.__name__)
        return self._search_class(config, scorers)

    @property
    def _search_class(self) -> type:
        return BeamSearch

    @property
    def _ctc_window_margin(self) -> int:
        """Frames around the hypotheses that the CTC looks at; 0: all of them."""
        return 0

    def _primer(self) -> Optional[List[int]]:
        """What hypotheses begin with; None: the start symbol."""
        primer = self.bundle.manifest.search.primer
        return None if primer is None else list(primer)

    def _build_scorers(self, tokens: List[str]) -> Dict[str, FullScorer]:
        """The full scorers that have a weight, in ESPnet's order."""
        weights, manifest = self._options.weights, self.bundle.manifest
        scorers: Dict[str, FullScorer] = {}
        if weights["decoder"] and "decoder" in manifest.graphs:
            scorers["decoder"] = self._scorer("decoder")
        if weights["length_bonus"]:
            scorers["length_bonus"] = LengthBonus(len(tokens))
        if weights["lm"] and "lm" in manifest.graphs:
            scorers["lm"] = self._scorer("lm")
        if weights["ngram"] and manifest.ngram is not None:
            path = str(self.bundle.file(manifest.ngram))
            scorers["ngram"] = NgramScorer(path, tokens)
        return scorers

    def _scorer(self, role: str) -> FullScorer:
        """The scorer of a step graph of the bundle."""
        memory = None
        if f"{role}_memory" in self.bundle.manifest.graphs:
            memory = Session(self.bundle, f"{role}_memory", self.device)
        return graph_scorer(Session(self.bundle, role, self.device), memory)

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """What the graphs take of an utterance.

        Args:
            speech: (samples,), (samples, channels) or (frames, dim).

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        expected = self.bundle.manifest.speech
        speech = prepare(np.asarray(speech), expected)
        logger.info("speech length: %d", len(speech))
        if len(speech) < expected.min_length:
            unit = "samples" if expected.kind == "waveform" else "frames"
            raise TooShortUttError(
                f"has {len(speech)} {unit} and is too short for the encoder (it needs "
                f"{expected.min_length}), return empty results"
            )
        return speech

    def encode(self, utterances: Sequence[Utterance]) -> Encoded:
        """Run frontend and encoder on utterances that :meth:`prepare` gave."""
        return self._encoder(utterances)

    def __call__(self, speech: np.ndarray) -> Results:
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

    def batch(
        self, utterances: Sequence[Utterance], primers: Optional[Primers] = None
    ) -> List[Results]:
        """Recognize several utterances together.

        Each gets the result that it gets alone.

        Args:
            utterances: what :meth:`prepare` gave; of similar lengths, for speed.
            primers: what the hypotheses of each begin with; default: that of the
                options.
        """
        start = time.perf_counter()
        results = self._recognize(self.encode(utterances), primers)
        parts = self._seconds()
        total = time.perf_counter() - start
        named = {name: parts.get(name, 0.0) for name in Timing._fields[:-1]}
        self.timing = Timing(**named, rest=total - sum(named.values()))
        return results

    def stages(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> Iterator[Stage]:
        """Run the searches of a call, in order."""
        made, roles = {"encoder": encoded}, {"decoder": "decoder", "lm": "lm"}
        primed = () if primers is None else (primers,)
        yield Stage(made, roles, self.search, encoded, self.search(encoded, *primed))

    def _recognize(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> List[Results]:
        """The results of each utterance."""
        results: List[Any] = []
        [stage] = self.stages(encoded, primers)
        for i, hypotheses in enumerate(stage.hypotheses):
            best = self._nbest(hypotheses)
            if self._options.ctm:
                best = timed(best, encoded, i, self.bundle.manifest)
            intermediate = self._interctc(encoded, i)
            results.append((best, intermediate) if intermediate else best)
        speakers = self.bundle.manifest.speakers
        if speakers is not None:
            firsts = range(0, len(results), speakers)
            results = [results[first : first + speakers] for first in firsts]
        return results

    def _seconds(self) -> Dict[str, float]:
        """Seconds that the newest call spent, by part."""
        return {**self._encoder.seconds, **self.search.seconds}

    def _nbest(self, hypotheses: Sequence[Hypothesis]) -> List[Result]:
        return [self._result(hypothesis) for hypothesis in hypotheses[: self.nbest]]

    def _result(self, hypothesis: Hypothesis) -> Result:
        token_int = [i for i in hypothesis.yseq[1:-1] if i != 0]
        token = self.converter.ids2tokens(token_int)
        return self.converter.tokens2text(token), token, token_int, hypothesis

    def placeholder(self) -> Results:
        """The results of an utterance that is too short for the encoder."""
        nbest = [PLACEHOLDER] * self.nbest
        speakers = self.bundle.manifest.speakers
        return nbest if speakers is None else [nbest] * speakers

    def files(self, results: Results) -> Dict[str, Lines]:
        """What is written of an utterance, by the file's path.

        Of several speakers, each has files of its own: ``token_spk1``, ...
        """
        return result_files(results, self.bundle.manifest.speakers, self.lines)

    def lines(self, result: Result) -> Dict[str, Lines]:
        """What is written of a result, by the file's name; several lines as a list.

        ESPnet's files, ``scores`` with what each scorer gave (before its weight), and
        with option ``ctm`` NIST's time marks (channel, start, duration, token or word).
        """
        written = result_lines(result)
        if self._options.ctm:
            written.update(time_marks(result, self.bundle.manifest.text.token_type))
        return written

    def _interctc(self, encoded: Encoded, utterance: int) -> Dict[int, List[str]]:
        """Greedy result of each intermediate CTC."""
        tokens = intermediate_tokens(encoded, utterance, self.bundle.manifest.search)
        return {k: self.converter.ids2tokens(ids) for k, ids in tokens.items()}
