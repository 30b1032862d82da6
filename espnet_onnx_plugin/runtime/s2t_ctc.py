"""OWSM-CTC: the counterpart of ``espnet2.bin.s2t_inference_ctc``."""

import logging
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime import options
from espnet_onnx_plugin.runtime.beam_search import BeamSearch
from espnet_onnx_plugin.runtime.data import READERS, check_rate, check_values, prepare
from espnet_onnx_plugin.runtime.encoder import Accompanied, Encoded, Utterance
from espnet_onnx_plugin.runtime.greedy_search import GreedySearch
from espnet_onnx_plugin.runtime.model import SpeechModel
from espnet_onnx_plugin.runtime.results import PLACEHOLDER, Lines
from espnet_onnx_plugin.runtime.s2t import fixed_length
from espnet_onnx_plugin.runtime.text import without_special
from espnet_onnx_plugin.runtime.utterance_search import Hypothesis

logger = logging.getLogger(__name__)

Result = Tuple[Optional[str], List[str], List[int], Optional[str], Optional[Hypothesis]]
Audio = Union[str, Path, np.ndarray]
TextPrev = Union[str, Sequence[int], np.ndarray]


#: What the encoder reads besides speech, by the graph's input.
Prompt = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class DecodeOptions(options.DecodeOptions):
    """ESPnet's decoding options, with its names and defaults.

    A beam of 1 is the best token of each frame; a larger one searches with the CTC and
    language models.
    """

    beam_size: int = 1
    ctc_weight: float = field(default=1.0, init=False)
    lm_weight: float = 0.0
    ngram_weight: float = 0.0
    normalize_length: bool = field(default=False, init=False)
    # The tokens of language and task were not spoken.
    ctm: bool = field(default=False, init=False)
    lang_sym: str = "<nolang>"
    task_sym: str = "<asr>"


def frame_tokens(encoded: Encoded) -> List[np.ndarray]:
    """The best token of each frame, of each utterance, (frames,)."""
    return [
        scores[:frames].argmax(axis=-1)
        for scores, frames in zip(encoded["ctc_log_probs"], encoded.lengths)
    ]


class Speech2TextGreedySearch(SpeechModel):
    """Transcribe or translate speech; a drop-in for ESPnet's class of that name.

    With ``beam_size`` above 1, for ESPnet's ``s2t_inference_ctc.Speech2Text``.

    Args:
        model_dir, provider, threads, session: see :class:`.model.SpeechModel`.
        options: ESPnet's decoding options, see :class:`DecodeOptions`.
    """

    task = "s2t_ctc"
    options_class = DecodeOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """See :class:`.model.SpeechModel`."""
        return {}

    def _build_search(self) -> Union[GreedySearch, BeamSearch]:
        if self._options.beam_size == 1:
            return GreedySearch(self.bundle.manifest.search)
        return super()._build_search()

    @property
    def _greedy(self) -> bool:
        return isinstance(self.search, GreedySearch)

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """What the command gives the graphs of an utterance: the length of training.

        Args:
            speech: (samples,) or (samples, channels).
        """
        speech = prepare(np.asarray(speech), self.bundle.manifest.speech)
        return fixed_length(speech, self._samples(self._buffer_seconds))

    @property
    def _buffer_seconds(self) -> float:
        return self.bundle.manifest.search["speech_length"]

    def _samples(self, seconds: float) -> int:
        return int(self.bundle.manifest.speech.sampling_rate * seconds)

    def _frames(self, seconds: float) -> int:
        rate = self.bundle.manifest.search["frames_per_second"]
        if rate is None:
            raise PluginError(
                "long speech needs an input_layer of which ESPnet knows the rate "
                "(conv2d, conv2d1, conv2d2, conv2d6 or conv2d8)"
            )
        return int(rate * seconds)

    def prompt(
        self,
        text_prev: TextPrev = "<na>",
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> Prompt:
        """What the encoder reads besides speech; arguments as in :meth:`__call__`."""
        lang_sym = self._options.lang_sym if lang_sym is None else lang_sym
        task_sym = self._options.task_sym if task_sym is None else task_sym
        prefix = [self.converter.token2id(symbol) for symbol in (lang_sym, task_sym)]
        if isinstance(text_prev, str):
            ids = self.converter.text2ids(text_prev)
        else:
            ids = [int(i) for i in text_prev]
        na = self.bundle.manifest.search["na"]
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
        text_prev: TextPrev = "<na>",
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> List[Result]:
        """Recognize one utterance, as long as it is.

        Args:
            speech: (samples,) in the model's sampling rate.
            text_prev: text before it, or its token ids.
            lang_sym, task_sym: symbols of the language and the task; default: those of
                the options.

        Returns:
            Tuples (text, token, token_int, text_nospecial, hypothesis), best first; the
            hypothesis of a greedy search is None.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        prompt = self.prompt(text_prev, lang_sym, task_sym)
        return self.batch([Accompanied(super().prepare(speech), prompt)])[0]

    def _result(self, hypothesis: Hypothesis) -> Result:  # type: ignore[override]
        ids = self.bundle.manifest.search
        token_int = [i for i in hypothesis.yseq[1:-1] if i != ids["blank"]]
        token = self.converter.ids2tokens(token_int)
        text = self.converter.tokens2text(token)
        plain = self.converter.tokens2text(without_special(token))
        return text, token, token_int, plain, None if self._greedy else hypothesis

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

    def _windows(self, speech: np.ndarray, context: float) -> List[np.ndarray]:
        """Windows of the length of training, which overlap by twice a context."""
        size = self._samples(self._buffer_seconds)
        step = self._samples(self._buffer_seconds - 2 * context)
        speech = np.pad(speech, self._samples(context))
        windows = []
        for first in range(0, len(speech), step):
            windows.append(fixed_length(speech[first : first + size], size))
            if len(speech) - first < size:
                break
        return windows

    def _inner(self, windows: Sequence[np.ndarray], context: float) -> np.ndarray:
        """Tokens of the frames of windows, their contexts cut off, in a row."""
        size, edge = self._frames(self._buffer_seconds), self._frames(context)
        return np.concatenate([tokens[:size][edge:-edge] for tokens in windows])

    def _plain(self, frames: np.ndarray) -> str:
        """Text of the tokens of frames."""
        blank = self.bundle.manifest.search["blank"]
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
            tokens += frame_tokens(
                self.encode([Accompanied(s.astype(np.float32), p) for s, p in batch])
            )
        return tokens

    def decode_long_batched_buffered(
        self,
        speech: np.ndarray,
        batch_size: int = 1,
        context_len_in_secs: float = 2,
        lang_sym: Optional[str] = None,
        task_sym: Optional[str] = None,
    ) -> str:
        """Recognize speech of any length in windows that overlap.

        Args:
            speech: (samples,).
            batch_size: windows that are decoded together.
            context_len_in_secs: what is cut off a window's ends, seconds.
            lang_sym, task_sym: see :meth:`__call__`.

        Returns:
            The text, without special tokens.
        """
        windows = self._windows(self._load(speech), context_len_in_secs)
        na = [self.bundle.manifest.search["na"]]
        prompts = [self.prompt(na, lang_sym, task_sym)] * len(windows)
        tokens = self._encode_all(windows, prompts, batch_size)
        return self._plain(self._inner(tokens, context_len_in_secs))

    def batch_decode(
        self,
        speech: Union[Audio, List[Audio]],
        batch_size: int = 16,
        context_len_in_secs: float = 4,
        text_prev: Union[str, List[str]] = "<na>",
        lang_sym: Union[str, List[str], None] = None,
        task_sym: Union[str, List[str], None] = None,
    ) -> Union[str, List[str]]:
        """Recognize utterances of any length; long ones are cut into windows.

        Args:
            speech: (samples,) or a file in the model's sampling rate, or several.
            batch_size: windows that are decoded together.
            context_len_in_secs: what is cut off a window's ends, seconds.
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
        na = [self.bundle.manifest.search["na"]]
        size = self._samples(self._buffer_seconds)
        windows: List[np.ndarray] = []
        prompts: List[Prompt] = []
        counts = []
        for audio, previous, *symbols in zip(speech, *each):
            array = self._load(audio)
            if len(array) <= size:
                cut = [fixed_length(array, size)]
            else:
                cut = self._windows(array, context_len_in_secs)
            windows += cut
            prompts.append(self.prompt(previous, *symbols))
            prompts += [self.prompt(na, *symbols)] * (len(cut) - 1)
            counts.append(len(cut))
        tokens = self._encode_all(windows, prompts, batch_size)
        texts = []
        for count in counts:
            own, tokens = tokens[:count], tokens[count:]
            texts.append(
                self._plain(
                    own[0] if count == 1 else self._inner(own, context_len_in_secs)
                )
            )
        return texts

    def _load(self, audio: Audio) -> np.ndarray:
        """Speech (samples,) of a file or an array."""
        expected = self.bundle.manifest.speech
        if not isinstance(audio, (str, Path)):
            return check_values(audio, expected)
        read = READERS["sound"](str(audio))
        check_rate(str(audio), read, expected)
        speech = check_values(read.array, expected)
        return speech.mean(axis=1) if speech.ndim == 2 else speech
