"""Speech to text with a bundle: the counterpart of ``espnet2.bin.asr_inference``."""

import logging
import time
from dataclasses import dataclass, field
from itertools import groupby
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
    Tuple,
    Union,
)

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.align import Span, align, words
from espnet_onnx_plugin.runtime.beam_search import BeamSearch
from espnet_onnx_plugin.runtime.data import prepare
from espnet_onnx_plugin.runtime.encoder import Encoded, Encoder, Utterance
from espnet_onnx_plugin.runtime.hub_search import GenerateConfig, HubSearch
from espnet_onnx_plugin.runtime.scorers import (
    FullScorer,
    LengthBonus,
    NgramScorer,
    Primers,
    graph_scorer,
)
from espnet_onnx_plugin.runtime.session import Device, Session
from espnet_onnx_plugin.runtime.tasks import is_mask_ctc
from espnet_onnx_plugin.runtime.text import TokenConverter
from espnet_onnx_plugin.runtime.time_sync_search import TimeSyncSearch
from espnet_onnx_plugin.runtime.utterance_search import (
    BeamSearchConfig,
    Hypothesis,
)

logger = logging.getLogger(__name__)

Result = Tuple[Optional[str], List[str], List[int], Hypothesis]
Results = Union[
    List[Result], Tuple[List[Result], Dict[int, List[str]]], List[List[Result]]
]

#: What is written into a file of an utterance: a line, or several.
Lines = Union[str, List[str]]

#: What ESPnet answers an utterance with that is too short for the encoder.
PLACEHOLDER: Result = (" ", ["<space>"], [2], Hypothesis(yseq=[], score=0.0))


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
    search: Union[BeamSearch, TimeSyncSearch]
    encoded: Encoded
    hypotheses: List[List[Hypothesis]]


class TooShortUttError(Exception):
    """The input is shorter than the encoder's layers can take, as in ESPnet."""


class Timing(NamedTuple):
    """Seconds that a call took, by part; ``rest`` is what no part accounts for."""

    frontend: float
    encoder: float
    decoder: float
    lm: float
    ctc: float
    rest: float


@dataclass(frozen=True)
class DecodeOptions:
    """ESPnet's decoding options, with its names and defaults.

    Attributes:
        ctm: whether results come with the times of tokens and words; not of ESPnet's.
    """

    maxlenratio: float = 0.0
    minlenratio: float = 0.0
    beam_size: int = 20
    ctc_weight: float = 0.5
    lm_weight: float = 1.0
    ngram_weight: float = 0.9
    penalty: float = 0.0
    nbest: int = 1
    normalize_length: bool = False
    time_sync: bool = False
    multi_asr: bool = False
    lid_prompt: bool = False
    lang_prompt_token: Optional[str] = None
    nlp_prompt_token: Optional[str] = None
    hugging_face_decoder: bool = False
    hugging_face_decoder_conf: Mapping[str, Any] = field(default_factory=dict)
    ctm: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.ctc_weight <= 1.0:
            raise PluginError(f"ctc_weight {self.ctc_weight} must lie between 0 and 1")
        if self.nbest < 1:
            raise PluginError(f"nbest {self.nbest} must be 1 or more")

    @property
    def weights(self) -> Dict[str, float]:
        """Weight of each scorer, in ESPnet's order."""
        return dict(
            decoder=1.0 - self.ctc_weight,
            ctc=self.ctc_weight,
            length_bonus=self.penalty,
            lm=self.lm_weight,
            ngram=self.ngram_weight,
        )


def _check_precision(bundle: Bundle, device: Device) -> None:
    """Refuse a bundle in a precision that is not for this device."""
    quantized = bundle.manifest.checks.get("quantize")
    if quantized is None:
        return
    half = quantized["precision"] == "fp16"
    if half and device.provider == "cpu":
        raise PluginError(
            f"{bundle.path} is in fp16, which is for cuda and slower than fp32 on the "
            "CPU; use the int8 or optimized bundle with cpu"
        )
    if not half and device.provider == "cuda":
        raise PluginError(
            f"{bundle.path} is quantized for the CPU, onnxruntime's CUDA has no such "
            "operators; use the fp16, fp32 or optimized bundle with cuda"
        )


def _check_speakers(bundle: Bundle, multi_asr: bool) -> None:
    """Refuse a model of several speakers that was not asked for, and the reverse."""
    speakers = bundle.manifest.speakers
    if multi_asr != (speakers is not None):
        raise PluginError(
            f"the encoder of {bundle.path} tells {speakers or 'no'} speakers apart: "
            f"set multi_asr to {'false' if multi_asr else 'true'}"
        )


class Speech2Text:
    """Recognize speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir: the bundle, or its directory.
        provider: ``cpu`` or ``cuda``.
        threads: CPU threads.
        session: the other attributes of
            :class:`~espnet_onnx_plugin.runtime.session.Device`, by name.
        options: ESPnet's decoding options, see :class:`DecodeOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Examples:
        >>> speech2text = Speech2Text("exp/asr_train/onnx/int8", beam_size=10)
        >>> speech2text(speech)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "asr"
    options_class: Any = DecodeOptions
    #: Whether hypotheses come with the decoder's hidden states.
    return_hs = False

    def __init__(
        self,
        model_dir: Union[str, Path, Bundle],
        provider: str = "cpu",
        threads: int = 1,
        session: Mapping[str, bool] = MappingProxyType({}),
        **options: Any,
    ):
        try:
            self._options = self.options_class(**options)
        except TypeError as e:
            raise PluginError(f"decoding options: {e}")
        bundle = model_dir if isinstance(model_dir, Bundle) else read_bundle(model_dir)
        device = Device(provider, threads, **session)
        if bundle.manifest.task != self.task:
            raise PluginError(
                f"{bundle.path} is a bundle of task '{bundle.manifest.task}', "
                f"{type(self).__name__} takes {self.task}"
            )
        _check_precision(bundle, device)
        _check_speakers(bundle, getattr(self._options, "multi_asr", False))
        self.bundle = bundle
        self.device = device
        self.converter = TokenConverter(self.bundle)
        self._encoder = self._open_encoder()
        self.search = self._build_search()
        #: Length of the n-best list.
        self.nbest = self._options.nbest
        #: Timing of the newest call.
        self.timing = Timing(*[0.0] * len(Timing._fields))

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        graphs = bundle.manifest.graphs
        if "generate" in bundle.manifest.search:
            conf = dict(max_new_tokens=20, do_sample=False)
            return dict(hugging_face_decoder=True, hugging_face_decoder_conf=conf)
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
            **({"multi_asr": True} if bundle.manifest.speakers is not None else {}),
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
        if is_mask_ctc(self.bundle):
            raise PluginError(
                f"{self.bundle.path} is a Mask-CTC model, which has no beam search: "
                "use asr_inference_maskctc"
            )
        options, search = self._options, self.bundle.manifest.search
        tokens = self.converter.token_list
        if "generate" in search and options.hugging_face_decoder:
            return self._build_hub_search(search["generate"])
        if "generate" in search and (options.weights["decoder"] or options.time_sync):
            raise PluginError(
                "the model has a decoder of Hugging Face's hub, which ESPnet searches "
                "with hugging_face_decoder: true alone; set it"
            )
        primer = self._primer()
        if options.time_sync and primer is not None:
            raise PluginError(
                "time_sync is not for models of Whisper's tokens, in ESPnet either: "
                "that search begins with the start symbol alone"
            )
        if options.time_sync and "decoder" in search.get("together", ()):
            raise PluginError(
                "time_sync is not for this model's decoder, in ESPnet either: that "
                "search scores one hypothesis at a time"
            )
        if not self._has_ctc and (options.ctc_weight > 0 or options.time_sync):
            raise PluginError(
                "the model has no CTC: set ctc_weight to 0 and time_sync to false"
            )
        if options.ctm and self.bundle.manifest.speech.frame_shift is None:
            raise PluginError("the model has no CTC to align by: leave ctm out")
        scorers = self._build_scorers(tokens)
        config = BeamSearchConfig(
            beam_size=options.beam_size,
            vocabulary=len(tokens),
            sos=search["sos"],
            eos=search["eos"],
            blank=search["blank"],
            weights=options.weights,
            pre_beam=self._pre_beam(scorers),
            maxlenratio=options.maxlenratio,
            minlenratio=options.minlenratio,
            normalize_length=options.normalize_length,
            primer=primer,
            max_tokens=search.get("max_tokens"),
            return_hs=self.return_hs,
            end_is_candidate=not set(scorers).intersection(search.get("single", ())),
            token_list=tokens,
        )
        if not any(options.weights[name] for name in (*scorers, "ctc")):
            raise PluginError(
                "no scorer is left: the model has no decoder and ctc_weight is 0"
            )
        cls = TimeSyncSearch if options.time_sync else BeamSearch
        logger.info("%s implementation is selected.", cls.__name__)
        return cls(config, scorers)

    def _build_hub_search(self, settings: Mapping[str, Any]) -> HubSearch:
        """The search for a decoder of Hugging Face's hub."""
        config = GenerateConfig(**settings)
        config = config.overridden(self._options.hugging_face_decoder_conf)
        logger.info("HubSearch implementation is selected.")
        return HubSearch(config, self._scorer("decoder"))

    def _primer(self) -> Optional[List[int]]:
        """What hypotheses begin with, Whisper's prompts taken into account."""
        options, hub = self._options, self.converter.hub
        primer = self.bundle.manifest.search.get("primer")
        if primer is None:
            return None
        if options.lang_prompt_token is not None:
            prompt = options.lang_prompt_token.split()
            return [primer[0], *hub.tokens2ids(prompt), *primer[3:]]
        if options.nlp_prompt_token is not None:
            prompt = hub.text2tokens(options.nlp_prompt_token)
            return [*primer[:2], *hub.tokens2ids(prompt), *primer[3:]]
        return primer[:1] if options.lid_prompt else primer

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
                best = [self._timed(encoded, i, result) for result in best]
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
        nbest, intermediate = results if isinstance(results, tuple) else (results, {})
        lists = {"": nbest}
        if self.bundle.manifest.speakers is not None:
            lists = {f"_spk{i}": of_speaker for i, of_speaker in enumerate(nbest, 1)}
        files = {
            f"{n}best_recog/{name}{suffix}": line
            for suffix, of_speaker in lists.items()
            for n, result in enumerate(of_speaker, 1)
            for name, line in self.lines(result).items()
        }
        for layer, token in intermediate.items():
            name = f"1best_recog/encoder_interctc_layer{layer}.txt"
            files[name] = " ".join(token)
        return files

    def _timed(self, encoded: Encoded, utterance: int, result: Result) -> Result:
        """The result, with the times of its tokens in the hypothesis."""
        text, token, token_int, hypothesis = result
        frames = encoded.lengths[utterance]
        log_probs = encoded["ctc_log_probs"][utterance, :frames]
        blank = self.bundle.manifest.search["blank"]
        spans = align(log_probs, token_int, blank)
        if spans is None:
            logger.warning("more tokens than frames of the encoder: no times")
            return result
        speech = self.bundle.manifest.speech
        seconds = spans * speech.seconds(speech.frame_shift)
        times = [Span(t, *map(float, s)) for t, s in zip(token, seconds)]
        return text, token, token_int, hypothesis._replace(times=times)

    def lines(self, result: Result) -> Dict[str, Lines]:
        """What is written of a result, by the file's name; several lines as a list.

        ESPnet's files, ``scores`` with what each scorer gave (before its weight), and
        with option ``ctm`` NIST's time marks (channel, start, duration, token or word).
        """
        text, token, token_int, hypothesis = result
        lines: Dict[str, Lines] = {
            "token": " ".join(token),
            "token_int": " ".join(map(str, token_int)),
            "score": str(hypothesis.score),
        }
        if text is not None:
            lines["text"] = text
        if hypothesis.scores:
            parts = [f"{name}={value:.4f}" for name, value in hypothesis.scores.items()]
            lines["scores"] = " ".join(parts)
        if self._options.ctm:
            token_type = self.bundle.manifest.text.token_type
            lines["token.ctm"] = _time_marks(hypothesis.times)
            lines["ctm"] = _time_marks(words(hypothesis.times, token_type))
        return lines

    def _interctc(self, encoded: Encoded, utterance: int) -> Dict[int, List[str]]:
        """Greedy result of each intermediate CTC."""
        search = self.bundle.manifest.search
        excluded = {search["blank"], search["sos"], search["eos"]}
        results = {}
        for name, value in encoded.items():
            if name.startswith("interctc_"):
                frames = encoded.lengths[utterance]
                best = value[utterance, :frames].argmax(axis=-1).tolist()
                ids = [i for i, _ in groupby(best) if i not in excluded]
                layer = int(name[len("interctc_") :])
                results[layer] = self.converter.ids2tokens(ids)
        return results


def _time_marks(spans: Sequence[Span]) -> List[str]:
    return [f"1 {start:.3f} {end - start:.3f} {text}" for text, start, end in spans]
