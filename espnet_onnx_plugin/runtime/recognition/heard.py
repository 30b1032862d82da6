"""Results of a stream: while an utterance goes on, when it is over, and how late."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from espnet_onnx_plugin.runtime.recognition.results import Lines, NBest, Recognized
from espnet_onnx_plugin.runtime.search.ctc_align import Span
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis


class Partial(NamedTuple):
    """The best hypothesis of an utterance that goes on.

    Attributes:
        text, token, token_int: of all of it; the text is None where the model has no
            tokenizer.
        words: of all of it, with the seconds at which they were spoken where these are
            known, else NaN.
        stable_tokens, stable_words: how many of each will not change any more: every
            hypothesis that goes on has these tokens. A word is stable when the next one
            has begun.
    """

    text: str | None
    token: list[str]
    token_int: list[int]
    words: list[Span]
    stable_tokens: int
    stable_words: int


class Latency(NamedTuple):
    """Delays of an utterance, in seconds.

    Words wait for audio, which takes the same time on every machine, and then for
    computation, which is measured. Audio is taken to come in at the speed of speech:
    the computation of a part of it begins when all of the part is there and the part
    before is done. The first words are ``first_partial + first_computation`` late, the
    last ones ``last_word + last_computation``.

    Attributes:
        first_partial: from the start of the first spoken frame to the end of the part
            that gave the first words. A frame is spoken if its most probable token is
            not the CTC's blank. None where there are no words in the result, or no CTC
            tells what is spoken.
        last_word: from the end of the last spoken frame to the end of the part that
            gave the last change of the words.
        work: computation for a second of audio.
        first_computation, last_computation: from the end of that part until its words
            were there.
    """

    first_partial: float | None
    last_word: float | None
    work: float
    first_computation: float | None = None
    last_computation: float | None = None


class Utterance(NamedTuple):
    """A part of a stream that is over.

    Attributes:
        results: the n-best list, as ESPnet gives it.
        start, end: seconds from the start of the stream.
        reason: the rule of :class:`Endpointing` by which it ended, or ``final``.
        tokens, words: times of the best result's, in seconds of the stream; empty where
            the model cannot tell them.
        latency: how late it was recognized.
    """

    results: NBest[Recognized]
    start: float
    end: float
    reason: str
    tokens: list[Span]
    words: list[Span]
    latency: Latency


@dataclass
class Flicker:
    """Words that were shown and taken back.

    Attributes:
        erased: how many were.
        said: words of the results.
    """

    erased: int = 0
    said: int = 0

    @property
    def rate(self) -> float:
        """Words taken back for each word of the results: the normalized erasure of
        Arivazhagan et al. 2020, "Re-translation versus Streaming" (arXiv:2004.03643).
        """
        return self.erased / max(1, self.said)


#: File of the figures of streams, beside those of their best results.
STREAM_FILE = "stream"


#: Of an utterance that nothing was found in, for files with a line for each utterance.
NOTHING = Recognized("", [], [], Hypothesis(yseq=[], score=0.0))


class Heard(NBest[Recognized]):
    """The n-best list of an utterance that was fed part by part, and how it came.

    Attributes:
        latency: how late.
        flicker: of its words.
        cut: how it was cut: ``frontend``, and ``chunk_seconds`` of the parts.
    """

    def __init__(
        self,
        results: Iterable[Recognized],
        latency: Latency,
        flicker: Flicker,
        cut: Mapping[str, object],
    ):
        super().__init__(results)
        self.latency = latency
        self.flicker = flicker
        self.cut = cut

    def figures(self) -> dict[str, float | None]:
        """Latency and flicker by name, rounded to a tenth of a millisecond."""
        figures = {**self.latency._asdict(), **vars(self.flicker)}
        return {k: None if v is None else round(v, 4) for k, v in figures.items()}

    def files(self) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path.

        Where nothing was found ESPnet's streams write no line, and its scoring, which
        puts lines side by side, goes astray; here it is an empty one. Beside the best
        result lie the figures of the stream, as JSON.
        """
        figures = json.dumps({**self.cut, **self.figures()})
        files = NBest(self or [NOTHING]).files()
        return {**files, f"1best_recog/{STREAM_FILE}": figures}
