"""Whisper-style speech to text (OWSM): ``espnet2.bin.s2t_inference``.

All speech is brought to one length, as in training. A hypothesis begins with a primer:
``[<sop> previous text] <sos> language task [<notimestamps>]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, read_manifest
from espnet_onnx_plugin.bundle.search import Prompted, PromptedCTC
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime import s2t_ctc
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.long_form import (
    Audio,
    Segment,
    Timestamps,
    one_window,
    read_speech,
    segments,
    window_length,
)
from espnet_onnx_plugin.runtime.recognition.options import S2tOfCtcOptions, S2tOptions
from espnet_onnx_plugin.runtime.recognition.prompts import TextPrev, owsm_primer
from espnet_onnx_plugin.runtime.recognition.results import (
    NBest,
    Transcribed,
    WithIntermediate,
    with_intermediate,
)
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers, Search
from espnet_onnx_plugin.runtime.search.timestamps import TimestampRules
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

Results = NBest[Transcribed] | WithIntermediate


class Speech2Text(SpeechModel[S2tOptions, Prompted, Results]):
    """Transcribe or translate speech; a drop-in for ESPnet's class of the same name.

    For a bundle of a model that is all CTC it makes a :class:`CTCSpeech2Text`, as
    ESPnet's takes models of either kind since 202611.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`S2tOptions`.

    Examples:
        >>> speech2text = Speech2Text("exp/s2t_train/onnx/int8", lang_sym="<deu>")
        >>> speech2text(speech)
        [(text, token, token_int, text_nospecial, hypothesis), ...]
    """

    task = "s2t"
    kind = Prompted
    options_class = S2tOptions

    def __new__(cls, model_dir: str | Path | Bundle, *args: Any, **named: Any):
        """A model of the class that a bundle's kind of search needs."""
        if cls is Speech2Text:
            if isinstance(model_dir, Bundle):
                manifest = model_dir.manifest
            else:
                manifest = read_manifest(model_dir)
            if isinstance(manifest.search, PromptedCTC):
                return CTCSpeech2Text(model_dir, *args, **named)
        return super().__new__(cls, model_dir, *args, **named)

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        tokens = TokenConverter(bundle).token_list
        symbols = {}
        for name in ("lang_sym", "task_sym"):
            default = getattr(S2tOptions, name)
            symbols[name] = default if default in tokens else tokens[0]
        return {**SpeechModel.check_options(bundle, beam_size), **symbols}

    def _build_search(self) -> Search:
        options, search = self._options, self._described
        builder = self._builder(search, options)
        rules = TimestampRules(
            len(self.converter.token_list),
            notime=search.notime,
            first_time=search.first_time,
            last_time=search.last_time,
            sos=search.sos,
            eos=search.eos,
        )
        scorers = {**builder.scorers(replays=True), "scorefilter": rules}
        pre_beam = options.ctc_weight != 1.0
        return builder.build(BeamSearch, scorers, pre_beam=pre_beam)

    @property
    def speech_length(self) -> int:
        """Samples that all speech is brought to."""
        return window_length(self._described)

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """Make the graphs' input of an utterance: as many samples as in training.

        Args:
            speech: (samples,) or (samples, channels).
        """
        return one_window(speech, self.speech, self._described)

    def primer(
        self,
        text_prev: TextPrev | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
        predict_time: bool | None = None,
    ) -> list[int]:
        """The tokens that hypotheses begin with; arguments as in :meth:`__call__`."""
        options = self._options
        lang_sym = options.lang_sym if lang_sym is None else lang_sym
        task_sym = options.task_sym if task_sym is None else task_sym
        if predict_time is None:
            predict_time = options.predict_time
        symbols = (lang_sym, task_sym)
        return owsm_primer(
            self._described, self.converter, text_prev, symbols, predict_time
        )

    def stages(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> Iterator[Stage]:
        """Run the search of a call; default: the options' primer."""
        return super().stages(encoded, primers or [self.primer()] * encoded.utterances)

    def __call__(
        self,
        speech: np.ndarray,
        text_prev: TextPrev | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
        predict_time: bool | None = None,
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

    def _results(self, stages: Sequence[Stage]) -> list[Results]:
        [stage] = stages
        return [
            with_intermediate(
                NBest(map(self._result, hypotheses[: self.nbest])),
                stage.encoded,
                utterance,
                self._described,
                self.converter,
            )
            for utterance, hypotheses in enumerate(stage.hypotheses)
        ]

    def _result(self, hypothesis: Hypothesis) -> Transcribed:
        search = self._described
        yseq = list(hypothesis.yseq[:-1])
        after = yseq.index(search.sos) + 1
        token_int = [i for i in yseq[after:] if i != search.blank]
        return Transcribed.of(self.converter, token_int, hypothesis)

    def placeholder(self) -> Results:
        """The results of an utterance that is too short for the encoder."""
        return NBest([Transcribed.placeholder()] * self.nbest)

    def best_path(
        self,
        speech: np.ndarray,
        text_prev: TextPrev | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
    ) -> list[Transcribed]:
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
        encoded = self.encode([self.prepare(speech)])
        [[best]] = GreedySearch(self._described)(encoded)
        return [self._result(best)._replace(hypothesis=None)]

    def decode_long(self, speech: Audio, **how: Any) -> list[Segment]:
        """Recognize speech of any length; arguments as in :meth:`iter_long`."""
        return list(self.iter_long(speech, **how))

    def iter_long(
        self,
        speech: Audio,
        *,
        batch_size: int = 1,
        context_len_in_secs: float | None = None,
        condition_on_prev_text: bool = False,
        init_text: str | None = None,
        end_time_threshold: str | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
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
        rules = conventions(self.bundle.manifest.espnet)
        times = Timestamps.of(
            self._described, self.converter, rules, end_time_threshold
        )

        def recognize(window: np.ndarray, previous: str | None) -> list[int]:
            text_prev = previous if condition_on_prev_text else None
            results = self(window, text_prev, lang_sym, task_sym, predict_time=True)
            nbest = results.nbest if isinstance(results, WithIntermediate) else results
            return nbest[0][2][2:]  # behind language and task

        yield from segments(
            read_speech(speech, self.speech),
            self._described,
            times,
            self.converter,
            recognize,
            init_text,
            skip_last_chunk_threshold,
        )


class CTCSpeech2Text(s2t_ctc.Speech2Text):
    """A model that is all CTC under the class that takes models of either kind."""

    options_class = S2tOfCtcOptions  # type: ignore[assignment]

    def decode_long(  # type: ignore[override]
        self, speech: Audio, **how: Any
    ) -> list[Segment]:
        """Recognize speech of any length; arguments as in :meth:`iter_long`."""
        return list(self.iter_long(speech, **how))

    def iter_long(
        self,
        speech: Audio,
        *,
        batch_size: int = 1,
        context_len_in_secs: float | None = None,
        condition_on_prev_text: bool = False,
        init_text: str | None = None,
        end_time_threshold: str | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
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
