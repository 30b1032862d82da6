"""Speech to text with a bundle: the counterpart of ``espnet2.bin.asr_inference``."""

import logging
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Dict,
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
from espnet_onnx_plugin.runtime.beam_search import (
    BeamSearch,
    BeamSearchConfig,
    Hypothesis,
)
from espnet_onnx_plugin.runtime.data import prepare
from espnet_onnx_plugin.runtime.encoder import Encoded, Encoder
from espnet_onnx_plugin.runtime.scorers import (
    FullScorer,
    LengthBonus,
    NgramScorer,
    graph_scorer,
)
from espnet_onnx_plugin.runtime.session import Device, Session
from espnet_onnx_plugin.runtime.text import TokenConverter
from espnet_onnx_plugin.runtime.time_sync_search import TimeSyncSearch

logger = logging.getLogger(__name__)

Result = Tuple[Optional[str], List[str], List[int], Hypothesis]
Results = Union[
    List[Result], Tuple[List[Result], Dict[int, List[str]]], List[List[Result]]
]


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
    """ESPnet's decoding options, with its names and defaults."""

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

    def __init__(
        self,
        model_dir: Union[str, Path, Bundle],
        provider: str = "cpu",
        threads: int = 1,
        session: Mapping[str, bool] = MappingProxyType({}),
        **options: Any,
    ):
        try:
            self._options = DecodeOptions(**options)
        except TypeError as e:
            raise PluginError(f"decoding options: {e}")
        bundle = model_dir if isinstance(model_dir, Bundle) else read_bundle(model_dir)
        device = Device(provider, threads, **session)
        if bundle.manifest.task != "asr":
            raise PluginError(
                f"{bundle.path} is a bundle of task '{bundle.manifest.task}', "
                "Speech2Text takes asr"
            )
        _check_precision(bundle, device)
        if self._options.multi_asr != (bundle.manifest.speakers is not None):
            raise PluginError(
                f"the encoder of {bundle.path} tells "
                f"{bundle.manifest.speakers or 'no'} speakers apart: set multi_asr to "
                f"{'false' if self._options.multi_asr else 'true'}"
            )
        self.bundle = bundle
        self.device = device
        self.converter = TokenConverter(self.bundle)
        self._encoder = Encoder(self.bundle, self.device)
        self.search = self._build_search()
        #: Length of the n-best list.
        self.nbest = self._options.nbest
        #: Timing of the newest call.
        self.timing = Timing(*[0.0] * len(Timing._fields))

    def _build_search(self) -> Union[BeamSearch, TimeSyncSearch]:
        options, search = self._options, self.bundle.manifest.search
        tokens = self.converter.token_list
        has_ctc = "ctc_log_probs" in self._encoder.outputs
        if not has_ctc and (options.ctc_weight > 0 or options.time_sync):
            raise PluginError(
                "the model has no CTC: set ctc_weight to 0 and time_sync to false"
            )
        config = BeamSearchConfig(
            beam_size=options.beam_size,
            vocabulary=len(tokens),
            sos=search["sos"],
            eos=search["eos"],
            blank=search["blank"],
            weights=options.weights,
            pre_beam=options.ctc_weight != 1.0,
            maxlenratio=options.maxlenratio,
            minlenratio=options.minlenratio,
            normalize_length=options.normalize_length,
            token_list=tokens,
        )
        scorers = self._build_scorers(tokens)
        if not any(options.weights[name] for name in (*scorers, "ctc")):
            raise PluginError(
                "no scorer is left: the model has no decoder and ctc_weight is 0"
            )
        cls = TimeSyncSearch if options.time_sync else BeamSearch
        logger.info("%s implementation is selected.", cls.__name__)
        return cls(config, scorers)

    def _build_scorers(self, tokens: List[str]) -> Dict[str, FullScorer]:
        """The full scorers that have a weight, in ESPnet's order."""
        weights, manifest = self._options.weights, self.bundle.manifest
        scorers: Dict[str, FullScorer] = {}
        if weights["decoder"] and "decoder" in manifest.graphs:
            memory = None
            if "decoder_memory" in manifest.graphs:
                memory = Session(self.bundle, "decoder_memory", self.device)
            step = Session(self.bundle, "decoder", self.device)
            scorers["decoder"] = graph_scorer(step, memory)
        if weights["length_bonus"]:
            scorers["length_bonus"] = LengthBonus(len(tokens))
        if weights["lm"] and "lm" in manifest.graphs:
            scorers["lm"] = graph_scorer(Session(self.bundle, "lm", self.device))
        if weights["ngram"] and manifest.ngram is not None:
            path = str(self.bundle.file(manifest.ngram))
            scorers["ngram"] = NgramScorer(path, tokens)
        return scorers

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

    def encode(self, utterances: Sequence[np.ndarray]) -> Encoded:
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

    def batch(self, utterances: Sequence[np.ndarray]) -> List[Results]:
        """Recognize several utterances together.

        Each gets the result that it gets alone.

        Args:
            utterances: what :meth:`prepare` gave; of similar lengths, for speed.
        """
        start = time.perf_counter()
        encoded = self.encode(utterances)
        results = []
        for i, hypotheses in enumerate(self.search(encoded)):
            best = [self._result(hypothesis) for hypothesis in hypotheses[: self.nbest]]
            intermediate = self._interctc(encoded, i)
            results.append((best, intermediate) if intermediate else best)
        speakers = self.bundle.manifest.speakers
        if speakers is not None:
            firsts = range(0, len(results), speakers)
            results = [results[first : first + speakers] for first in firsts]
        parts = {**self._encoder.seconds, **self.search.seconds}
        total = time.perf_counter() - start
        named = {name: parts.get(name, 0.0) for name in Timing._fields[:-1]}
        self.timing = Timing(**named, rest=total - sum(named.values()))
        return results

    def _result(self, hypothesis: Hypothesis) -> Result:
        token_int = [i for i in hypothesis.yseq[1:-1] if i != 0]
        token = self.converter.ids2tokens(token_int)
        return self.converter.tokens2text(token), token, token_int, hypothesis

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
