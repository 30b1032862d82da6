"""OWSM-CTC: the counterpart of ``espnet2.bin.s2t_inference_ctc``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import PromptedCTC
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Encoded, Utterance
from espnet_onnx_plugin.runtime.core.releases import Conventions, conventions
from espnet_onnx_plugin.runtime.io.speech import prepare
from espnet_onnx_plugin.runtime.recognition.buffers import (
    Buffers,
    Windows,
    best_frames,
)
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.long_form import (
    Audio,
    Segment,
    fixed_length,
    read_speech,
)
from espnet_onnx_plugin.runtime.recognition.options import (
    S2tCtcGreedyOptions as GreedyOptions,
)
from espnet_onnx_plugin.runtime.recognition.options import (
    S2tCtcOptions,
)
from espnet_onnx_plugin.runtime.recognition.prompts import (
    Prompt,
    TextPrev,
    owsm_ctc_prompt,
)
from espnet_onnx_plugin.runtime.recognition.results import NBest, Transcribed
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Search
from espnet_onnx_plugin.runtime.text.converter import without_special


class Speech2Text(SpeechModel[S2tCtcOptions, PromptedCTC, NBest[Transcribed]]):
    """Transcribe or translate speech; a drop-in for ESPnet's class of that name.

    The search is over the scores of the CTC and of language models.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`S2tCtcOptions`.
    """

    task = "s2t_ctc"
    kind = PromptedCTC
    options_class: type[S2tCtcOptions] = S2tCtcOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check: the defaults use every graph."""
        return {}

    def _build_search(self) -> Search:
        options = self._options
        if options.beam_size is None:
            size = self._conventions.s2t_ctc_beam_size
            options = dataclasses.replace(options, beam_size=size)
        builder = self._builder(self._described, options)
        return builder.build(BeamSearch, builder.scorers(replays=True), pre_beam=False)

    @property
    def _conventions(self) -> Conventions:
        return conventions(self.bundle.manifest.espnet)

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """Make the graphs' input of an utterance, as the command does: as many samples
        as in training.

        Args:
            speech: (samples,) or (samples, channels).
        """
        seconds = self._described.speech_length
        window = prepare(np.asarray(speech), self.speech)
        return fixed_length(window, int(self.speech.sampling_rate * seconds))

    def prompt(
        self,
        text_prev: TextPrev | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
    ) -> Prompt:
        """The encoder's input besides speech; arguments as in :meth:`__call__`."""
        lang_sym = self._options.lang_sym if lang_sym is None else lang_sym
        task_sym = self._options.task_sym if task_sym is None else task_sym
        symbols = (lang_sym, task_sym)
        return owsm_ctc_prompt(self._described, self.converter, text_prev, symbols)

    def encode(self, utterances: Sequence[Utterance]) -> Encoded:
        """Run frontend and encoder on utterances.

        Args:
            utterances: with a :meth:`prompt`; default: that of the options.
        """
        default = self.prompt()
        return super().encode(
            [
                u if isinstance(u, Accompanied) else Accompanied(u, default)
                for u in utterances
            ]
        )

    def __call__(
        self,
        speech: np.ndarray,
        text_prev: TextPrev | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
        predict_time: bool | None = None,
    ) -> NBest[Transcribed]:
        """Recognize one utterance, as long as it is.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate.
            text_prev: text before it, or its token ids.
            lang_sym, task_sym: symbols of the language and the task; default: those of
                the options.
            predict_time: taken as by ESPnet; a CTC predicts none.

        Returns:
            Tuples (text, token, token_int, text_nospecial, hypothesis), best first; the
            hypothesis of a greedy search is None.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        return self.batch([self._accompanied(speech, text_prev, lang_sym, task_sym)])[0]

    def best_path(
        self,
        speech: np.ndarray,
        text_prev: TextPrev | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
    ) -> list[Transcribed]:
        """Read the best token of each frame off, without a search.

        Args:
            speech, text_prev, lang_sym, task_sym: see :meth:`__call__`.

        Returns:
            One tuple as of :meth:`__call__`, whose hypothesis is None.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        given = self._accompanied(speech, text_prev, lang_sym, task_sym)
        [[best]] = GreedySearch(self._described)(self.encode([given]))
        return [self._result(best)._replace(hypothesis=None)]

    def _accompanied(
        self,
        speech: np.ndarray,
        text_prev: TextPrev | None,
        lang_sym: str | None,
        task_sym: str | None,
    ) -> Accompanied:
        """An utterance as long as it is, with its prompt."""
        prompt = self.prompt(text_prev, lang_sym, task_sym)
        return Accompanied(self._checked(speech), prompt)

    def _results(self, stages: Sequence[Stage]) -> list[NBest[Transcribed]]:
        [stage] = stages
        return [
            NBest(map(self._result, hypotheses[: self.nbest]))
            for hypotheses in stage.hypotheses
        ]

    def _result(self, hypothesis: Hypothesis) -> Transcribed:
        blank = self._described.blank
        token_int = [i for i in hypothesis.yseq[1:-1] if i != blank]
        return Transcribed.of(self.converter, token_int, hypothesis)

    def placeholder(self) -> NBest[Transcribed]:
        """The results of an utterance that is too short for the encoder."""
        return NBest([Transcribed.placeholder()] * self.nbest)

    def decode_long(
        self,
        speech: Audio,
        batch_size: int = 1,
        context_len_in_secs: float | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
    ) -> list[Segment]:
        """Recognize speech of any length in windows that overlap.

        Args:
            speech: a file, or (samples,) or (samples, channels).
            batch_size: windows that are decoded together.
            context_len_in_secs: seconds that are cut off a window's ends; default: 2,
                or the nearest whole number of frames where the ESPnet that exported the
                model needs one.
            lang_sym, task_sym: see :meth:`__call__`.

        Returns:
            Start and end in seconds of it all, and the text without special tokens.
        """
        buffers = self._buffers(context_len_in_secs, 2)
        array = read_speech(speech, self.speech)
        prompt = self._long_prompt(lang_sym, task_sym)
        inputs = [Accompanied(window, prompt) for window in buffers.split(array)]
        seconds = self.speech.seconds(len(array))
        windows = [Windows(inputs, seconds)]
        [frames] = best_frames(windows, buffers, self.encode, batch_size)
        return [(0.0, seconds, self._plain(frames))]

    def _buffers(self, context: float | None, default: float) -> Buffers:
        fs = self.speech.sampling_rate
        return Buffers.of(self._described, fs, self._conventions, context, default)

    def _long_prompt(self, lang_sym: str | None, task_sym: str | None) -> Prompt:
        """The prompt of a window, which has no text before it."""
        return self.prompt([self._described.na], lang_sym, task_sym)

    def _plain(self, frames: np.ndarray) -> str | None:
        """Text of the best tokens of frames."""
        blank = self._described.blank
        token_int = [i for i, _ in groupby(frames.tolist()) if i != blank]
        token = self.converter.ids2tokens(token_int)
        return self.converter.tokens2text(without_special(token))


class Speech2TextGreedySearch(Speech2Text):
    """Transcribe or translate speech; a drop-in for ESPnet's class of that name.

    With ``beam_size`` above 1 it searches, as :class:`Speech2Text`: the class of
    ESPnet's command ``s2t_inference_ctc`` for either.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`GreedyOptions`.
    """

    options_class = GreedyOptions

    @property
    def _is_greedy(self) -> bool:
        return self._options.beam_size == 1

    def _build_search(self) -> Search:
        if self._is_greedy:
            return GreedySearch(self._described)
        return super()._build_search()

    def _result(self, hypothesis: Hypothesis) -> Transcribed:
        result = super()._result(hypothesis)
        return result._replace(hypothesis=None) if self._is_greedy else result

    def decode_long_batched_buffered(
        self,
        speech: np.ndarray,
        batch_size: int = 1,
        context_len_in_secs: float | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
    ) -> str | None:
        """Text of speech of any length; arguments as in :meth:`decode_long`."""
        [(_, _, text)] = self.decode_long(
            speech, batch_size, context_len_in_secs, lang_sym, task_sym
        )
        return text

    def batch_decode(
        self,
        speech: Audio | list[Audio],
        batch_size: int = 16,
        context_len_in_secs: float | None = None,
        text_prev: str | list[str] = "<na>",
        lang_sym: str | list[str] | None = None,
        task_sym: str | list[str] | None = None,
    ) -> str | None | list[str | None]:
        """Recognize utterances of any length; long ones are cut into windows.

        Models exported by ESPnet 202611 cut short ones too, and read no text before.

        Args:
            speech: (samples,) or a file in the model's sampling rate, or several.
            batch_size: windows that are decoded together.
            context_len_in_secs: see :meth:`decode_long`; the default is 4 here.
            text_prev, lang_sym, task_sym: see :meth:`__call__`; one, or one for each.

        Returns:
            The text of each, without special tokens.
        """
        given = (text_prev, lang_sym, task_sym)
        if isinstance(speech, list):
            return self._decode_all(speech, batch_size, context_len_in_secs, *given)
        [text] = self._decode_all([speech], batch_size, context_len_in_secs, *given)
        return text

    def _decode_all(
        self,
        speech: Sequence[Audio],
        batch_size: int,
        context_len_in_secs: float | None,
        *given: str | list[str] | None,
    ) -> list[str | None]:
        each = [g if isinstance(g, list) else [g] * len(speech) for g in given]
        arrays = [read_speech(audio, self.speech) for audio in speech]
        buffers = self._buffers(context_len_in_secs, 4)
        cuts_all = self._conventions.s2t_ctc_keeps_whole_frames
        windows = []
        for array, previous, *symbols in zip(arrays, *each):
            prompt = first = self._long_prompt(*symbols)
            if not cuts_all:
                first = self.prompt(previous, *symbols)
            whole = not cuts_all and len(array) <= buffers.size
            own = [self.prepare(array)] if whole else buffers.split(array)
            inputs = [Accompanied(own[0], first)]
            inputs += [Accompanied(window, prompt) for window in own[1:]]
            windows.append(Windows(inputs, self.speech.seconds(len(array)), whole))
        found = best_frames(windows, buffers, self.encode, batch_size)
        return [self._plain(frames) for frames in found]
