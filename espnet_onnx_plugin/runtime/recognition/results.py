"""Results of an utterance, as ESPnet returns them and as it writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from espnet_onnx_plugin.bundle import Manifest
from espnet_onnx_plugin.bundle.search import LabelSynchronous, Transducer
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.ctc_align import Span, forced_align, words
from espnet_onnx_plugin.runtime.search.greedy import intermediate_tokens
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis
from espnet_onnx_plugin.runtime.text.converter import TokenConverter, without_special

logger = logging.getLogger(__name__)

#: Content of a file for an utterance: a line, or several.
Lines = str | list[str]


class Timing(NamedTuple):
    """Seconds that a call took, by part; ``rest`` is what no part accounts for."""

    frontend: float
    encoder: float
    decoder: float
    lm: float
    ctc: float
    rest: float

    @staticmethod
    def of(seconds: Mapping[str, float], total: float) -> Timing:
        """The timing of a call that took so long, of which some parts are known."""
        parts = {name: seconds.get(name, 0.0) for name in Timing._fields[:-1]}
        return Timing(**parts, rest=total - sum(parts.values()))


class Result(Protocol):
    """An entry of the n-best list."""

    def lines(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's name; several lines as a list."""


class Results(Protocol):
    """Everything that decoding gives for an utterance."""

    def files(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path."""


class Recognized(NamedTuple):
    """Tokens and their text; the text is None where the model has no tokenizer."""

    text: str | None
    token: list[str]
    token_int: list[int]
    hypothesis: Hypothesis

    @staticmethod
    def of(
        converter: TokenConverter, token_int: list[int], hypothesis: Hypothesis
    ) -> Recognized:
        """The result of a hypothesis.

        Args:
            converter: of the model.
            token_int: its tokens less the symbols that no text has.
            hypothesis: the whole of it.
        """
        token = converter.ids2tokens(token_int)
        return Recognized(converter.tokens2text(token), token, token_int, hypothesis)

    def lines(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, and for ``scores``: of each scorer, before its
        weight. Where there are times, also NIST's time marks (channel, start, duration,
        token or word).
        """
        hypothesis = self.hypothesis
        written = _token_lines(self.token, self.token_int)
        written["score"] = str(hypothesis.score)
        if self.text is not None:
            written["text"] = self.text
        written.update(_score_lines(hypothesis.scores))
        if hypothesis.times:
            written["token.ctm"] = _time_marks(hypothesis.times)
            written["ctm"] = _time_marks(hypothesis.words)
        return written


class Transcribed(NamedTuple):
    """Tokens and their text, also without those that say how it is spoken.

    Attributes:
        hypothesis: None where the CTC's best path was read off, without a search.
    """

    text: str | None
    token: list[str]
    token_int: list[int]
    text_nospecial: str | None
    hypothesis: Hypothesis | None

    @staticmethod
    def of(
        converter: TokenConverter, token_int: list[int], hypothesis: Hypothesis
    ) -> Transcribed:
        """The result of a hypothesis, see :meth:`Recognized.of`."""
        token = converter.ids2tokens(token_int)
        plain = converter.tokens2text(without_special(token))
        text = converter.tokens2text(token)
        return Transcribed(text, token, token_int, plain, hypothesis)

    @staticmethod
    def placeholder() -> Transcribed:
        """ESPnet's answer to an utterance that is too short for the encoder."""
        text, token, token_int, hypothesis = PLACEHOLDER
        return Transcribed(text, token, token_int, text, hypothesis)

    def lines(self) -> dict[str, Lines]:
        """Lines for ESPnet's files and ``scores``, as :meth:`Recognized.lines`."""
        written = _token_lines(self.token, self.token_int)
        if self.hypothesis is not None:
            written["score"] = str(self.hypothesis.score)
            written.update(_score_lines(self.hypothesis.scores))
        if self.text is not None:
            written["text"] = self.text
        if self.text_nospecial is not None:
            written["text_nospecial"] = self.text_nospecial
        return written


class SourceTranscript(NamedTuple):
    """A transcript in the source language of a translation.

    Attributes:
        hidden_states: (tokens, dim) of the decoder that recognizes.
    """

    text: str | None
    token: list[str]
    token_int: list[int]
    hypothesis: Hypothesis
    hidden_states: np.ndarray

    def lines(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, as :meth:`Recognized.lines`."""
        return Recognized(*self[:4]).lines()


class Language(NamedTuple):
    """A language's symbol and its probability among the languages."""

    symbol: str
    probability: float

    def lines(self) -> dict[str, Lines]:
        """Lines for ESPnet's files."""
        return {"score": str(self.probability), "text": self.symbol}


def _token_lines(token: Sequence[str], token_int: Sequence[int]) -> dict[str, Lines]:
    return {"token": " ".join(token), "token_int": " ".join(map(str, token_int))}


def _score_lines(scores: Mapping[str, float]) -> dict[str, Lines]:
    parts = [f"{name}={value:.4f}" for name, value in scores.items()]
    return {"scores": " ".join(parts)} if parts else {}


def _time_marks(spans: Sequence[Span]) -> list[str]:
    return [f"1 {start:.3f} {end - start:.3f} {text}" for text, start, end in spans]


R = TypeVar("R", bound=Result)


class NBest(list[R]):
    """The n-best list of an utterance, best first."""

    def files(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path."""
        return {
            f"{n}best_recog/{name}": lines
            for n, result in enumerate(self, 1)
            for name, lines in result.lines().items()
        }


class WithIntermediate(NamedTuple):
    """An n-best list, and by layer the greedy tokens of each intermediate CTC."""

    nbest: NBest[Recognized] | NBest[Transcribed]
    intermediate: dict[int, list[str]]

    def files(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path."""
        written = self.nbest.files()
        for layer, token in self.intermediate.items():
            path = f"1best_recog/encoder_interctc_layer{layer}.txt"
            written[path] = " ".join(token)
        return written


class OfSpeakers(list[NBest[Recognized] | WithIntermediate]):
    """Results for each of the speakers of an utterance."""

    def files(self) -> dict[str, Lines]:
        """Lines for the files of each speaker, ``token_spk1`` and so on."""
        return {
            f"{path}_spk{i}": lines
            for i, results in enumerate(self, 1)
            for path, lines in results.files().items()
        }


class Translated(NamedTuple):
    """Translations, and the transcripts that they were made from, each best first."""

    translations: NBest[Recognized]
    transcripts: list[SourceTranscript]

    def files(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path."""
        written = self.translations.files()
        for n, transcript in enumerate(self.transcripts, 1):
            for name, lines in transcript.lines().items():
                written[f"{n}asr_best_recog/asr_{name}"] = lines
        return written


def recognized(
    converter: TokenConverter, hypotheses: Iterable[Hypothesis], ended: bool = True
) -> NBest[Recognized]:
    """The n-best list of hypotheses, less the symbols around them and blanks.

    Args:
        converter: of the model.
        hypotheses: best first.
        ended: whether they have an end symbol.
    """
    end = -1 if ended else None
    return NBest(
        Recognized.of(converter, [i for i in h.yseq[1:end] if i != 0], h)
        for h in hypotheses
    )


#: ESPnet's answer to an utterance that is too short for the encoder.
PLACEHOLDER = Recognized(" ", ["<space>"], [2], Hypothesis(yseq=[], score=0.0))


def timed(
    result: Recognized, encoded: Encoded, utterance: int, manifest: Manifest, blank: int
) -> Recognized:
    """A result whose hypothesis has the times of its tokens and words."""
    speech = manifest.speech
    if speech is None or speech.frame_shift is None:
        raise ValueError("the frames of the model have no time")
    log_probs = encoded.of(utterance, "ctc_log_probs")
    frames = forced_align(log_probs, result.token_int, blank)
    if frames is None:
        logger.warning("more tokens than frames of the encoder: no times")
        return result
    seconds = (frames * speech.seconds(speech.frame_shift)).tolist()
    times = [Span(name, *span) for name, span in zip(result.token, seconds)]
    of_words = words(times, manifest.tokens.token_type)
    hypothesis = result.hypothesis._replace(times=times, words=of_words)
    return result._replace(hypothesis=hypothesis)


N = TypeVar("N", NBest[Recognized], NBest[Transcribed])


def with_intermediate(
    nbest: N,
    encoded: Encoded,
    utterance: int,
    search: LabelSynchronous | Transducer,
    converter: TokenConverter,
) -> N | WithIntermediate:
    """An n-best list, with the tokens of intermediate CTCs if the model has any."""
    layers = intermediate_tokens(encoded, utterance, search)
    if not layers:
        return nbest
    tokens = {layer: converter.ids2tokens(ids) for layer, ids in layers.items()}
    return WithIntermediate(nbest, tokens)
