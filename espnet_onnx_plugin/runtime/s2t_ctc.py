"""OWSM-CTC: the counterpart of ``espnet2.bin.s2t_inference_ctc``."""

import dataclasses
from itertools import groupby
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Encoded, Utterance
from espnet_onnx_plugin.runtime.core.releases import Conventions, conventions
from espnet_onnx_plugin.runtime.io.data import prepare
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel
from espnet_onnx_plugin.runtime.recognition.long_form import (
    Audio,
    Buffers,
    Segment,
    fixed_length,
    read_speech,
)
from espnet_onnx_plugin.runtime.recognition.options import (
    S2tCtcGreedyOptions as GreedyOptions,
)
from espnet_onnx_plugin.runtime.recognition.options import (
    S2tCtcOptions as DecodeOptions,
)
from espnet_onnx_plugin.runtime.recognition.results import PLACEHOLDER, Lines
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import Hypothesis
from espnet_onnx_plugin.runtime.text.converter import without_special

Result = Tuple[Optional[str], List[str], List[int], Optional[str], Optional[Hypothesis]]
TextPrev = Union[str, Sequence[int], np.ndarray]


#: What the encoder reads besides speech, by the graph's input.
Prompt = Mapping[str, np.ndarray]


def frame_tokens(encoded: Encoded) -> List[np.ndarray]:
    """The best token of each frame, of each utterance, (frames,)."""
    return [
        scores[:frames].argmax(axis=-1)
        for scores, frames in zip(encoded["ctc_log_probs"], encoded.lengths)
    ]


class Speech2Text(SpeechModel):
    """Transcribe or translate speech; a drop-in for ESPnet's class of that name.

    The search is over what the CTC and language models say.

    Args:
        model_dir, provider, threads, session: see :class:`.model.SpeechModel`.
        options: ESPnet's decoding options, see :class:`DecodeOptions`.
    """

    task = "s2t_ctc"
    options_class: type = DecodeOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """See :class:`.model.SpeechModel`."""
        return {}

    def _build_search(self) -> Union[GreedySearch, BeamSearch]:
        if self._options.beam_size is None:
            size = self._conventions.s2t_ctc_beam_size
            self._options = dataclasses.replace(self._options, beam_size=size)
        return super()._build_search()

    def _pre_beam(self, scorers: Mapping[str, FullScorer]) -> bool:
        return False

    @property
    def _conventions(self) -> Conventions:
        return conventions(self.bundle.manifest.espnet)

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """What the command gives the graphs of an utterance: the length of training.

        Args:
            speech: (samples,) or (samples, channels).
        """
        expected = self.bundle.manifest.speech
        seconds = self.bundle.manifest.search.speech_length
        speech = prepare(np.asarray(speech), expected)
        return fixed_length(speech, int(expected.sampling_rate * seconds))

    def prompt(
        self,
        text_prev: Optional[TextPrev] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> Prompt:
        """What the encoder reads besides speech; arguments as in :meth:`__call__`."""
        lang_sym = self._options.lang_sym if lang_sym is None else lang_sym
        task_sym = self._options.task_sym if task_sym is None else task_sym
        prefix = [self.converter.token2id(symbol) for symbol in (lang_sym, task_sym)]
        if text_prev is None:
            text_prev = "<na>"
        if isinstance(text_prev, str):
            ids = self.converter.text2ids(text_prev)
        else:
            ids = [int(i) for i in text_prev]
        na = self.bundle.manifest.search.na
        ids = [na] if na in ids else ids
        return dict(text_prev=np.array(ids, np.int64), prefix=np.array(prefix))

    def encode(self, utterances: Sequence[Utterance]) -> Encoded:
        """See :class:`.model.SpeechModel`.

        Args:
            utterances: with what :meth:`prompt` gave; default: that of the options.
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
        text_prev: Optional[TextPrev] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
        predict_time: Optional[bool] = None,
    ) -> List[Result]:
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
        text_prev: Optional[TextPrev] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> List[Result]:
        """Read the best token of each frame off, without a search.

        Args:
            speech, text_prev, lang_sym, task_sym: see :meth:`__call__`.

        Returns:
            One tuple as of :meth:`__call__`, whose hypothesis is None.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        given = self._accompanied(speech, text_prev, lang_sym, task_sym)
        [[best]] = GreedySearch(self.bundle.manifest.search)(self.encode([given]))
        return [(*self._result(best)[:-1], None)]

    def _accompanied(
        self,
        speech: np.ndarray,
        text_prev: Optional[TextPrev],
        lang_sym: Optional[str],
        task_sym: Optional[str],
    ) -> Accompanied:
        """An utterance as long as it is, with its prompt."""
        prompt = self.prompt(text_prev, lang_sym, task_sym)
        return Accompanied(super().prepare(speech), prompt)

    def _result(self, hypothesis: Hypothesis) -> Result:  # type: ignore[override]
        ids = self.bundle.manifest.search
        token_int = [i for i in hypothesis.yseq[1:-1] if i != ids.blank]
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
        stand_in = hypothesis or Hypothesis([])
        lines = super().lines((text, token, token_int, stand_in))
        if hypothesis is None:
            del lines["score"]
        if plain is not None:
            lines["text_nospecial"] = plain
        return lines

    def decode_long(
        self,
        speech: Audio,
        batch_size: int = 1,
        context_len_in_secs: Optional[float] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> List[Segment]:
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
        expected = self.bundle.manifest.speech
        buffers, speech = self._buffers(context_len_in_secs, 2), self._read(speech)
        windows = buffers.split(speech)
        prompts = [self._long_prompt(lang_sym, task_sym)] * len(windows)
        tokens = self._encode_all(windows, prompts, batch_size)
        seconds = expected.seconds(len(speech))
        return [(0.0, seconds, self._plain(buffers.join(tokens, seconds)))]

    def _buffers(self, context: Optional[float], default: float) -> Buffers:
        manifest = self.bundle.manifest
        fs = manifest.speech.sampling_rate
        return Buffers.of(manifest.search, fs, self._conventions, context, default)

    def _read(self, speech: Audio) -> np.ndarray:
        return read_speech(speech, self.bundle.manifest.speech)

    def _long_prompt(self, lang_sym: Optional[str], task_sym: Optional[str]) -> Prompt:
        """That of a window, which has no text before it."""
        na = [self.bundle.manifest.search.na]
        return self.prompt(na, lang_sym, task_sym)

    def _plain(self, frames: np.ndarray) -> str:
        """Text of the tokens of frames."""
        blank = self.bundle.manifest.search.blank
        token_int = [i for i, _ in groupby(frames.tolist()) if i != blank]
        token = self.converter.ids2tokens(token_int)
        return self.converter.tokens2text(without_special(token))

    def _encode_all(
        self, speech: Sequence[np.ndarray], prompts: Sequence[Prompt], batch_size: int
    ) -> List[np.ndarray]:
        """Tokens of the frames of each utterance."""
        tokens: List[np.ndarray] = []
        for i in range(0, len(speech), batch_size):
            batch = zip(speech[i : i + batch_size], prompts[i : i + batch_size])
            tokens += frame_tokens(self.encode([Accompanied(s, p) for s, p in batch]))
        return tokens


class Speech2TextGreedySearch(Speech2Text):
    """Transcribe or translate speech; a drop-in for ESPnet's class of that name.

    With ``beam_size`` above 1 it searches, as :class:`Speech2Text`: the class of
    ESPnet's command ``s2t_inference_ctc`` for either.

    Args:
        model_dir, provider, threads, session: see :class:`.model.SpeechModel`.
        options: ESPnet's decoding options, see :class:`GreedyOptions`.
    """

    options_class = GreedyOptions

    def _build_search(self) -> Union[GreedySearch, BeamSearch]:
        if self._options.beam_size == 1:
            return GreedySearch(self.bundle.manifest.search)
        return super()._build_search()

    def _result(self, hypothesis: Hypothesis) -> Result:  # type: ignore[override]
        result = super()._result(hypothesis)
        greedy = isinstance(self.search, GreedySearch)
        return (*result[:-1], None) if greedy else result

    def decode_long_batched_buffered(
        self,
        speech: np.ndarray,
        batch_size: int = 1,
        context_len_in_secs: Optional[float] = None,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> str:
        """Text of speech of any length; arguments as in :meth:`decode_long`."""
        [(_, _, text)] = self.decode_long(
            speech, batch_size, context_len_in_secs, lang_sym, task_sym
        )
        return text

    def batch_decode(
        self,
        speech: Union[Audio, List[Audio]],
        batch_size: int = 16,
        context_len_in_secs: Optional[float] = None,
        text_prev: Union[str, List[str]] = "<na>",
        lang_sym: Union[str, List[str], None] = None,
        task_sym: Union[str, List[str], None] = None,
    ) -> Union[str, List[str]]:
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
        if not isinstance(speech, list):
            return self.batch_decode(
                [speech], batch_size, context_len_in_secs, text_prev, lang_sym, task_sym
            )[0]
        given = (text_prev, lang_sym, task_sym)
        each = [g if isinstance(g, list) else [g] * len(speech) for g in given]
        arrays = [self._read(audio) for audio in speech]
        buffers = self._buffers(context_len_in_secs, 4)
        cuts_all = self._conventions.s2t_ctc_keeps_whole_frames
        windows: List[np.ndarray] = []
        prompts: List[Prompt] = []
        counts = []
        for array, previous, *symbols in zip(arrays, *each):
            whole = not cuts_all and len(array) <= buffers.size
            own = [self.prepare(array)] if whole else buffers.split(array)
            windows += own
            counts.append(len(own))
            prompts += [self._long_prompt(*symbols)] * len(own)
            if not cuts_all:
                prompts[-len(own)] = self.prompt(previous, *symbols)
        tokens = self._encode_all(windows, prompts, batch_size)
        texts = []
        for array, count in zip(arrays, counts):
            own, tokens = tokens[:count], tokens[count:]
            seconds = self.bundle.manifest.speech.seconds(len(array))
            whole = not cuts_all and count == 1
            texts.append(self._plain(own[0] if whole else buffers.join(own, seconds)))
        return texts
