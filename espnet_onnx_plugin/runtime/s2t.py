"""Whisper-style speech to text (OWSM): ``espnet2.bin.s2t_inference``.

All speech is brought to one length, as in training. A hypothesis begins with a primer:
``[<sop> previous text] <sos> language task [<notimestamps>]``.
"""

import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, read_manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime import s2t_ctc
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.io.data import prepare
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.long_form import (
    Audio,
    Segment,
    Timestamps,
    fixed_length,
    read_speech,
)
from espnet_onnx_plugin.runtime.recognition.options import S2tOfCtcOptions
from espnet_onnx_plugin.runtime.recognition.options import S2tOptions as DecodeOptions
from espnet_onnx_plugin.runtime.recognition.results import PLACEHOLDER, Lines
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Primers
from espnet_onnx_plugin.runtime.search.timestamps import TimestampRules
from espnet_onnx_plugin.runtime.search.utterance import Hypothesis
from espnet_onnx_plugin.runtime.text.converter import TokenConverter, without_special

logger = logging.getLogger(__name__)

Result = s2t_ctc.Result
TextPrev = s2t_ctc.TextPrev
Results = Union[List[Result], Tuple[List[Result], Dict[int, List[str]]]]


class Speech2Text(SpeechModel):
    """Transcribe or translate speech; a drop-in for ESPnet's class of the same name.

    For a bundle of task ``s2t_ctc`` it makes a :class:`CTCSpeech2Text`, as ESPnet's
    takes models of either kind since 202611.

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

    def __new__(cls, model_dir: Union[str, Path, Bundle], *args: Any, **named: Any):
        """See the class."""
        if cls is Speech2Text:
            given = isinstance(model_dir, Bundle)
            manifest = model_dir.manifest if given else read_manifest(model_dir)
            if manifest.task == CTCSpeech2Text.task:
                return CTCSpeech2Text(model_dir, *args, **named)
        return super().__new__(cls, model_dir, *args, **named)

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
        rules = TimestampRules(
            len(tokens), **{name: getattr(ids, name) for name in names}
        )
        return {**super()._build_scorers(tokens), "scorefilter": rules}

    @property
    def speech_length(self) -> int:
        """Samples that all speech is brought to."""
        search = self.bundle.manifest.search
        return int(search.fs * search.speech_length)

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
        text_prev: Optional[TextPrev] = None,
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
        primer = [ids.sos, *map(self.converter.token2id, (lang_sym, task_sym))]
        if not predict_time:
            primer.append(ids.notime)
        if text_prev is None:
            return primer
        if isinstance(text_prev, str):
            previous = self.converter.text2ids(text_prev)
        else:
            previous = [int(i) for i in text_prev]
        if ids.na in previous:
            return primer
        return [ids.sop, *previous, *primer]

    def stages(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> Iterator[Stage]:
        """See :class:`.model.SpeechModel`; the default is the options' primer."""
        return super().stages(encoded, primers or [self.primer()] * encoded.utterances)

    def __call__(
        self,
        speech: np.ndarray,
        text_prev: Optional[TextPrev] = None,
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
        after = yseq.index(ids.sos) + 1
        token_int = [i for i in yseq[after:] if i != ids.blank]
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

    def best_path(
        self,
        speech: np.ndarray,
        text_prev: Optional[TextPrev] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> List[Result]:
        """Read the CTC's best token of each frame off, without a search.

        Args:
            speech: (samples,) or (samples, channels).
            text_prev, lang_sym, task_sym: taken as by ESPnet, which reads them where
                the encoder has a prompt; that of this model has none.

        Returns:
            One tuple as of :meth:`__call__`, whose hypothesis is None.
        """
        if not self._has_ctc:
            raise PluginError("the model has no CTC: call it in the place of best_path")
        ids = self.bundle.manifest.search
        [[best]] = GreedySearch(ids)(self.encode([self.prepare(speech)]))
        return [(*self._result(best)[:-1], None)]

    def decode_long(self, speech: Audio, **how: Any) -> List[Segment]:
        """Recognize speech of any length; arguments as in :meth:`iter_long`."""
        return list(self.iter_long(speech, **how))

    def iter_long(
        self,
        speech: Audio,
        *,
        batch_size: int = 1,
        context_len_in_secs: Optional[float] = None,
        condition_on_prev_text: bool = False,
        init_text: Optional[str] = None,
        end_time_threshold: Optional[str] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
        skip_last_chunk_threshold: float = 0.2,
    ) -> Iterator[Segment]:
        """Recognize speech of any length, window by window.

        A window begins where the timestamps say that the last whole utterance ended.
        The releases of ESPnet order these arguments differently, so give their names.

        Args:
            speech: a file, or (samples,) or (samples, channels).
            batch_size, context_len_in_secs: taken as by ESPnet, where they are for
                models that are all CTC.
            condition_on_prev_text: whether a window's text is ``text_prev`` of the
                next.
            init_text: ``text_prev`` of the first.
            end_time_threshold: a last utterance that ends behind it is taken for
                incomplete; default: that of the ESPnet that exported the model.
            lang_sym, task_sym: see :meth:`__call__`.
            skip_last_chunk_threshold: seconds; a shorter rest is left out.

        Yields:
            (start, end, text) of each utterance, seconds.
        """
        manifest = self.bundle.manifest
        fs = manifest.search.fs
        times = Timestamps.of(
            manifest.search,
            self.converter,
            conventions(manifest.espnet),
            end_time_threshold,
        )
        speech = read_speech(speech, manifest.speech)
        offset, previous = 0, init_text
        while offset < len(speech):
            begin = offset / fs
            logger.info("Current start time in seconds: %.2f", begin)
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
            # Behind language and task.
            utterances, next_begin = times.utterances(best[2][2:])
            previous = ""
            for start, *tokens, stop in utterances:
                text = self.converter.tokens2text(self.converter.ids2tokens(tokens))
                previous += text
                yield (
                    round(times.seconds(start) + begin, 2),
                    round(times.seconds(stop) + begin, 2),
                    text,
                )
            advance = round(times.seconds(next_begin) * fs)
            if advance <= 0:  # ESPnet before 202611 goes on for ever
                logger.warning("Skip to the end of the window, which begins its rest")
                advance = self.speech_length
            offset += advance


class CTCSpeech2Text(s2t_ctc.Speech2Text):
    """A model that is all CTC under the class that takes models of either kind."""

    options_class = S2tOfCtcOptions

    def decode_long(self, speech: Audio, **how: Any) -> List[Segment]:
        """Recognize speech of any length; arguments as in :meth:`iter_long`."""
        return list(self.iter_long(speech, **how))

    def iter_long(
        self,
        speech: Audio,
        *,
        batch_size: int = 1,
        context_len_in_secs: Optional[float] = None,
        condition_on_prev_text: bool = False,
        init_text: Optional[str] = None,
        end_time_threshold: Optional[str] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
        skip_last_chunk_threshold: float = 0.2,
    ) -> Iterator[Segment]:
        """Recognize speech of any length in windows that overlap, as one utterance.

        Args:
            speech, batch_size, context_len_in_secs, lang_sym, task_sym: see
                :meth:`~espnet_onnx_plugin.runtime.s2t_ctc.Speech2Text.decode_long`.
            condition_on_prev_text, init_text, end_time_threshold,
                skip_last_chunk_threshold: taken as by ESPnet, where they are for models
                with a decoder.
        """
        yield from super().decode_long(
            speech, batch_size, context_len_in_secs, lang_sym, task_sym
        )
