"""The course of an utterance in a stream: what a listener is shown, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.runtime.recognition.endpoint import Activity
from espnet_onnx_plugin.runtime.recognition.heard import Latency
from espnet_onnx_plugin.runtime.recognition.results import NBest, Recognized, Timing
from espnet_onnx_plugin.runtime.recognition.stream_engine import (
    Part,
    Progress,
    StreamEngine,
)
from espnet_onnx_plugin.runtime.search.ctc_align import Span, words
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis
from espnet_onnx_plugin.runtime.text.converter import TokenConverter


class Recognizer(Protocol):
    """A model as streams need it."""

    bundle: Bundle
    converter: TokenConverter
    speech: Speech
    #: Of the newest call.
    timing: Timing
    #: Id of the CTC's blank.
    blank: int
    #: Whether tokens come in the order in which they are spoken.
    follows_speech: bool
    #: Whether speech is heard by its tokens, as each comes with the frame in which it
    #: is heard; else by the CTC alone.
    heard_by_tokens: bool

    @property
    def engine(self) -> StreamEngine[Any]:
        """Runs the streams."""

    def results(self, hypotheses: Sequence[Hypothesis]) -> NBest[Recognized]:
        """The n-best list of hypotheses."""


class Moment(NamedTuple):
    """A moment at which words were shown.

    Attributes:
        samples: of the utterance that had come in.
        behind: seconds of computation since then.
    """

    samples: int
    behind: float


@dataclass(frozen=True, eq=False)
class Course:
    """Course of an utterance so far. It is never changed.

    Attributes:
        samples: how many have been recognized.
        activity: of the speaker, by the CTC.
        grown: how many samples had been recognized when there were more tokens last.
        token_int: of the best hypothesis.
        stable: how many of these will not change.
        words: of the best hypothesis.
        first, changed: when words were shown first, and when they were changed last.
        erased: words that were shown and taken back.
        seconds: of computation.
        behind: seconds of it that are left when the newest samples have come in, where
            they come at the speed of speech.
    """

    samples: int = 0
    activity: Activity = Activity()
    grown: int = 0
    token_int: tuple[int, ...] = ()
    stable: int = 0
    words: tuple[str, ...] = ()
    first: Moment | None = None
    changed: Moment = Moment(0, 0.0)
    erased: int = 0
    seconds: float = 0.0
    behind: float = 0.0

    def followed(
        self,
        model: Recognizer,
        part: Part[Any],
        progress: Progress[Any],
        results: NBest[Recognized],
        seconds: float,
    ) -> Course:
        """The course behind another part.

        Args:
            model: recognizes the utterance.
            part: what came.
            progress: its outcome.
            results: of a final part.
            seconds: of computation that the part took.
        """
        samples = self.samples + len(part.samples)
        # A part waits until the one before it is done.
        waited = max(0.0, self.behind - model.speech.seconds(len(part.samples)))
        course = replace(
            self,
            samples=samples,
            seconds=self.seconds + seconds,
            behind=waited + seconds,
        )
        if progress.ctc_log_probs is not None:
            activity = self.activity.followed(progress.ctc_log_probs, model.blank)
            course = replace(course, activity=activity)
        if part.is_final:
            hypotheses = [tuple(result.token_int) for result in results[:1]] or [()]
        elif progress.state.search is part.state.search:
            return course
        else:
            running = model.engine.search.running(progress.state.search)
            hypotheses = [_without_blank(tokens) for tokens in running]
        return course._shown(model, hypotheses) if hypotheses else course

    def _shown(self, model: Recognizer, hypotheses: list[tuple[int, ...]]) -> Course:
        """The course where these hypotheses go on, best first."""
        course = replace(self, stable=shared(hypotheses))
        if hypotheses[0] == self.token_int:
            return course
        if len(hypotheses[0]) > len(self.token_int):
            course = replace(course, grown=self.samples)
        token = model.converter.ids2tokens(list(hypotheses[0]))
        said = tuple(word.text for word in numbered_words(model, token))
        course = replace(course, token_int=hypotheses[0], words=said)
        if said == self.words:
            return course
        now = Moment(self.samples, self.behind)
        return replace(
            course,
            first=self.first or now,
            changed=now,
            erased=self.erased + len(self.words) - shared([self.words, said]),
        )

    def latency(self, model: Recognizer) -> Latency:
        """Delays of the utterance, which is over."""
        speech, activity = model.speech, self.activity
        work = self.seconds / max(speech.seconds(self.samples), 1e-9)
        if speech.frame_shift is None or activity.start is None or not self.words:
            return Latency(None, None, work)
        assert self.first is not None
        shift = speech.seconds(speech.frame_shift)
        return Latency(
            speech.seconds(self.first.samples) - activity.start * shift,
            speech.seconds(self.changed.samples) - activity.end * shift,
            work,
            self.first.behind,
            self.changed.behind,
        )


def numbered_words(model: Recognizer, token: Sequence[str]) -> list[Span]:
    """Words of tokens, and in the place of times the numbers of these."""
    numbered = [Span(text, i, i + 1) for i, text in enumerate(token)]
    return words(numbered, model.bundle.manifest.tokens.token_type)


def _without_blank(tokens: Sequence[int]) -> tuple[int, ...]:
    """Tokens of a hypothesis as ESPnet's results have them."""
    return tuple(int(i) for i in tokens[1:] if i != 0)


def shared(sequences: Sequence[Sequence[Any]]) -> int:
    """Length of what all sequences begin with."""
    length = 0
    for together in zip(*sequences):
        if any(one != together[0] for one in together):
            break
        length += 1
    return length
