"""Whisper-style speech to text (OWSM): ``espnet2.bin.s2t_inference``.

All speech is brought to one length, as in training. A hypothesis begins with a primer:
``[<sop> previous text] <sos> language task [<notimestamps>]``.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime import options
from espnet_onnx_plugin.runtime.data import check_values, prepare
from espnet_onnx_plugin.runtime.encoder import Encoded
from espnet_onnx_plugin.runtime.model import SpeechModel, Stage
from espnet_onnx_plugin.runtime.results import PLACEHOLDER, Lines
from espnet_onnx_plugin.runtime.scorers import FullScorer, Primers
from espnet_onnx_plugin.runtime.text import TokenConverter, without_special
from espnet_onnx_plugin.runtime.timestamps import TimestampRules
from espnet_onnx_plugin.runtime.utterance_search import Hypothesis

logger = logging.getLogger(__name__)

Result = Tuple[Optional[str], List[str], List[int], Optional[str], Hypothesis]
Results = Union[List[Result], Tuple[List[Result], Dict[int, List[str]]]]

#: Start and end in seconds, and text.
Segment = Tuple[float, float, str]


@dataclass(frozen=True)
class DecodeOptions(options.DecodeOptions):
    """ESPnet's decoding options, with its names and defaults."""

    beam_size: int = 5
    ctc_weight: float = 0.0
    lm_weight: float = 0.0
    ngram_weight: float = 0.0
    # The tokens of language and task were not spoken.
    ctm: bool = field(default=False, init=False)
    lang_sym: str = "<eng>"
    task_sym: str = "<asr>"
    predict_time: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ctc_weight > 0.0 and self.predict_time:
            raise PluginError(
                "CTC cannot predict timestamps: set ctc_weight to 0 or predict_time to "
                "false"
            )

    @property
    def weights(self) -> Dict[str, float]:
        """See :class:`.options.DecodeOptions`."""
        return {**super().weights, "scorefilter": 1.0}


def fixed_length(speech: np.ndarray, length: int) -> np.ndarray:
    """Speech (samples,) with zeros behind it, or cut, to a length in samples."""
    speech = speech[:length]
    return np.pad(speech, (0, length - len(speech)))


class Speech2Text(SpeechModel):
    """Transcribe or translate speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.model.SpeechModel`.
        options: ESPnet's decoding options, see :class:`DecodeOptions`.

    Examples:
        >>> speech2text = Speech2Text("exp/s2t_train/onnx/int8", lang_sym="<deu>")
        >>> speech2text(speech)
        [(text, token, token_int, text_nospecial, hypothesis), ...]
    """

    task = "s2t"
    options_class: type = DecodeOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """See :class:`.model.SpeechModel`."""
        tokens = TokenConverter(bundle).token_list
        symbols = {}
        for name in ("lang_sym", "task_sym"):
            default = getattr(DecodeOptions, name)
            symbols[name] = default if default in tokens else tokens[0]
        return {**SpeechModel.check_options(bundle, beam_size), **symbols}

    def _build_scorers(self, tokens: List[str]) -> Dict[str, FullScorer]:
        ids = self.bundle.manifest.search
        names = ("notime", "first_time", "last_time", "sos", "eos")
        rules = TimestampRules(len(tokens), **{name: ids[name] for name in names})
        return {**super()._build_scorers(tokens), "scorefilter": rules}

    @property
    def speech_length(self) -> int:
        """Samples that all speech is brought to."""
        search = self.bundle.manifest.search
        return int(search["fs"] * search["speech_length"])

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """What the graphs take of an utterance: as many samples as in training.

        Args:
            speech: (samples,) or (samples, channels).
        """
        speech = prepare(np.asarray(speech), self.bundle.manifest.speech)
        speech = fixed_length(speech, self.speech_length)
        logger.info("speech length: %d", len(speech))
        return speech

    def primer(
        self,
        text_prev: Union[str, Sequence[int], np.ndarray, None] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
        predict_time: Optional[bool] = None,
    ) -> List[int]:
        """The tokens that hypotheses begin with; arguments as in :meth:`__call__`."""
        options, ids = self._options, self.bundle.manifest.search
        if predict_time is None:
            predict_time = options.predict_time
        lang_sym = options.lang_sym if lang_sym is None else lang_sym
        task_sym = options.task_sym if task_sym is None else task_sym
        primer = [ids["sos"], *map(self.converter.token2id, (lang_sym, task_sym))]
        if not predict_time:
            primer.append(ids["notime"])
        if text_prev is None:
            return primer
        if isinstance(text_prev, str):
            previous = self.converter.text2ids(text_prev)
        else:
            previous = [int(i) for i in text_prev]
        if ids["na"] in previous:
            return primer
        return [ids["sop"], *previous, *primer]

    def stages(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> Iterator[Stage]:
        """See :class:`.model.SpeechModel`; the default is the options' primer."""
        return super().stages(encoded, primers or [self.primer()] * encoded.utterances)

    def __call__(
        self,
        speech: np.ndarray,
        text_prev: Union[str, Sequence[int], np.ndarray, None] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
        predict_time: Optional[bool] = None,
    ) -> Results:
        """Recognize one utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate;
                padded or cut to the length of training.
            text_prev: text before it, or its token ids.
            lang_sym, task_sym: symbols of the language and the task; default: those of
                the options.
            predict_time: whether to predict timestamps; default: that of the options.

        Returns:
            Up to ``nbest`` tuples (text, token, token_int, text_nospecial, hypothesis),
            best first. For a model with intermediate CTC, a pair of that and the tokens
            of each intermediate layer, as in ESPnet.
        """
        primer = self.primer(text_prev, lang_sym, task_sym, predict_time)
        return self.batch([self.prepare(speech)], [primer])[0]

    def _result(self, hypothesis: Hypothesis) -> Result:
        ids = self.bundle.manifest.search
        yseq = list(hypothesis.yseq[:-1])
        after = yseq.index(ids["sos"]) + 1
        token_int = [i for i in yseq[after:] if i != ids["blank"]]
        token = self.converter.ids2tokens(token_int)
        text = self.converter.tokens2text(token)
        plain = self.converter.tokens2text(without_special(token))
        return text, token, token_int, plain, hypothesis

    def placeholder(self) -> List[Result]:  # type: ignore[override]
        """See :class:`.model.SpeechModel`."""
        text, token, token_int, hypothesis = PLACEHOLDER
        return [(text, token, token_int, text, hypothesis)] * self.nbest

    def lines(self, result: Result) -> Dict[str, Lines]:  # type: ignore[override]
        """See :class:`.model.SpeechModel`."""
        text, token, token_int, plain, hypothesis = result
        lines = super().lines((text, token, token_int, hypothesis))
        if plain is not None:
            lines["text_nospecial"] = plain
        return lines

    def decode_long(
        self,
        speech: np.ndarray,
        condition_on_prev_text: bool = False,
        init_text: Optional[str] = None,
        end_time_threshold: str = "<29.00>",
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
        skip_last_chunk_threshold: float = 0.2,
    ) -> List[Segment]:
        """Recognize speech of any length, window by window.

        A window begins where the timestamps say that the last whole utterance ended.

        Args:
            speech: (samples,) or (samples, 1).
            condition_on_prev_text: whether a window's text is ``text_prev`` of the
                next.
            init_text: ``text_prev`` of the first.
            end_time_threshold: a last utterance that ends behind it is taken for
                incomplete.
            lang_sym, task_sym: see :meth:`__call__`.
            skip_last_chunk_threshold: seconds; a shorter rest is left out.

        Returns:
            (start, end, text) of each utterance, seconds.
        """
        ids = self.bundle.manifest.search
        fs = ids["fs"]
        threshold = self.converter.token2id(end_time_threshold)
        speech = check_values(speech, self.bundle.manifest.speech)
        if speech.ndim == 2 and speech.shape[1] == 1:
            speech = speech[:, 0]
        segments: List[Segment] = []
        offset, previous = 0, init_text
        while offset < len(speech):
            logger.info("Current start time in seconds: %.2f", offset / fs)
            window = speech[offset : offset + self.speech_length]
            if len(window) / fs < skip_last_chunk_threshold:
                logger.warning(
                    "Skip the last chunk as it's too short: %.2fs", len(window) / fs
                )
                break
            results = self(
                window,
                previous if condition_on_prev_text else None,
                lang_sym,
                task_sym,
                predict_time=True,
            )
            best = (results[0] if isinstance(results, tuple) else results)[0]
            tokens = best[2][2:]  # behind language and task
            spans, end = self._spans(tokens, threshold)
            previous = ""
            for start, stop in spans:
                text = self.converter.tokens2text(
                    self.converter.ids2tokens(tokens[start + 1 : stop])
                )
                previous += text
                segments.append(
                    (
                        self._time(tokens[start], offset),
                        self._time(tokens[stop], offset),
                        text,
                    )
                )
            offset += round((end - ids["first_time"]) * ids["speech_resolution"] * fs)
        return segments

    def _time(self, token: int, offset: int) -> float:
        """Time of a timestamp in a window that begins at a sample."""
        ids = self.bundle.manifest.search
        seconds = (token - ids["first_time"]) * ids["speech_resolution"]
        return round(seconds + offset / ids["fs"], 2)

    def _spans(
        self, tokens: List[int], threshold: int
    ) -> Tuple[List[Tuple[int, int]], int]:
        """Positions of the whole utterances' timestamps, and that of the next window.

        Closes an only utterance that has no end.
        """
        ids = self.bundle.manifest.search
        first, last = ids["first_time"], ids["last_time"]
        times = [i for i, token in enumerate(tokens) if first <= token <= last]
        if len(times) == 1:
            tokens.append(last)
            times.append(len(tokens) - 1)
        end = tokens[times[-1]]
        if len(times) % 2:  # the last utterance only has a start
            times = times[:-1]
        elif len(times) > 2 and end > threshold:  # it is incomplete
            end = tokens[times[-2]]
            times = times[:-2]
        return list(zip(times[::2], times[1::2])), end
