"""A stream: speech that is still coming in, and what has been recognized of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.speech import check_values, one_channel
from espnet_onnx_plugin.runtime.recognition.course import (
    Course,
    Recognizer,
    numbered_words,
)
from espnet_onnx_plugin.runtime.recognition.endpoint import Activity, Endpointing
from espnet_onnx_plugin.runtime.recognition.heard import Flicker, Partial, Utterance
from espnet_onnx_plugin.runtime.recognition.results import NBest, Recognized
from espnet_onnx_plugin.runtime.recognition.saved import from_bytes, to_bytes
from espnet_onnx_plugin.runtime.recognition.stream_engine import (
    Part,
    Progress,
    StreamState,
)
from espnet_onnx_plugin.runtime.recognition.token_times import TokenTimes
from espnet_onnx_plugin.runtime.search.ctc_align import Span, words

#: Seconds of audio after which a stream with endpointing looks for an end. Pieces of
#: that length are cut from the start of the stream on, so that the ends that are found
#: do not depend on how it comes in.
LOOK_EVERY = 0.1

#: The reason of an end that the caller has asked for.
FINAL = "final"


class Stream:
    """Speech that is still coming in; made by the model's ``open``.

    Args:
        model: recognizes it.
        endpointing: rules by which utterances end by themselves; None: only
            :meth:`final` ends one.

    Attributes:
        flicker: of the words that were shown.

    Raises:
        PluginError: if the rules go by silence and the model has no CTC.
    """

    def __init__(self, model: Recognizer, endpointing: Endpointing | None = None):
        self._model = model
        self._endpointing = endpointing
        speech = model.speech
        self._shift = None
        if speech.frame_shift is not None:
            self._shift = speech.seconds(speech.frame_shift)
        hears = self._shift is not None or model.heard_by_tokens
        if endpointing is not None and endpointing.listens and not hears:
            raise PluginError(
                "the model has no CTC by which silence is heard: set "
                "silence_after_speech and silence_without_speech to None"
            )
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if nothing had come."""
        self._state: StreamState[Any] = self._model.engine.start()
        dim = self._model.speech.feature_dim
        self._waiting = np.zeros((0, dim) if dim else 0, np.float32)
        self._before = 0  # samples of the utterances that are over
        self._course = Course()
        self._times = TokenTimes()
        self._reason: str | None = None
        self.flicker = Flicker()

    def feed(self, samples: np.ndarray) -> list[Utterance]:
        """Recognize on.

        Args:
            samples: (samples,) or (samples, channels) in the model's sampling rate, any
                number of them, or (frames, dim) where the model reads features.

        Returns:
            The utterances that have ended by the rules of endpointing.
        """
        [ended] = feed_together(self._model, [self], [samples])
        return ended

    def final(self) -> Utterance:
        """End the utterance; what comes next is another one."""
        nothing = [self._waiting[:0]]
        [ended] = feed_together(self._model, [self], nothing, is_final=True)
        return ended[-1]

    def copy(self) -> Stream:
        """Another stream that has heard the same so far."""
        other = copy.copy(self)
        other.flicker = replace(self.flicker)
        return other

    def save(self) -> bytes:
        """All that is remembered, for the model's ``resume`` in any process."""
        data = {k: v for k, v in vars(self).items() if k != "_model"}
        return to_bytes(self._model.bundle, data)

    @staticmethod
    def resume(model: Recognizer, saved: bytes) -> Stream:
        """The stream that :meth:`save` has given.

        Raises:
            PluginError: if it is not one of this model.
        """
        stream = Stream(model)
        vars(stream).update(from_bytes(model.bundle, saved))
        return stream

    @property
    def seconds(self) -> float:
        """Length of what has come in."""
        come = self._before + self._course.samples + len(self._waiting)
        return self._model.speech.seconds(come)

    @property
    def partial(self) -> Partial:
        """The best hypothesis of the utterance that goes on."""
        course, converter = self._course, self._model.converter
        token_int = list(course.token_int)
        token = converter.ids2tokens(token_int)
        known = self._spans(token)
        unknown = [Span(t, np.nan, np.nan) for t in token[len(known) :]]
        places = numbered_words(self._model, token)
        spans = _words_of([*known, *unknown], places)
        stable = sum(place.end <= course.stable for place in places[:-1])
        text = converter.tokens2text(token)
        return Partial(text, token, token_int, spans, course.stable, stable)

    def _spans(self, token: Sequence[str]) -> list[Span]:
        """Times of the aligned tokens, in seconds of the stream."""
        start, shift = self._model.speech.seconds(self._before), self._shift or 0.0
        return [
            Span(text, start + a * shift, start + b * shift)
            for text, (a, b) in zip(token, self._times.spans)
        ]

    # Steps of feed_together

    def take(self, samples: np.ndarray) -> None:
        """Add to what waits to be recognized."""
        speech = self._model.speech
        given = one_channel(check_values(samples, speech), speech)
        self._waiting = np.concatenate((self._waiting, given))

    def next_part(self, is_final: bool) -> Part[Any] | None:
        """The part that is to be recognized next; None: there is none now.

        Args:
            is_final: whether the utterance ends with all that waits.
        """
        engine = self._model.engine
        size = engine.part or len(self._waiting)
        if self._endpointing is not None and engine.exact:
            size = round(LOOK_EVERY * self._model.speech.sampling_rate)
        if self._reason is not None:  # it has ended by a rule
            size = 0
        elif is_final and len(self._waiting) <= size:
            self._reason, size = FINAL, len(self._waiting)
        elif not size or len(self._waiting) < size:
            return None
        part, self._waiting = self._waiting[:size], self._waiting[size:].copy()
        return Part(self._state, part, self._reason is not None)

    def made(
        self, part: Part[Any], progress: Progress[Any], seconds: float
    ) -> Utterance | None:
        """Take up what was recognized of a part.

        Args:
            part: of :meth:`next_part`.
            progress: of the engine.
            seconds: that it took.

        Returns:
            The utterance, if it is over.
        """
        model, before = self._model, self._course
        self._state = progress.state
        results: NBest[Recognized] = NBest()
        if part.is_final:
            results = model.results(progress.hypotheses)
        course = before.followed(model, part, progress, results, seconds)
        self._course = course
        self.flicker.erased += course.erased - before.erased
        scores = progress.ctc_log_probs
        if scores is not None and model.follows_speech and self._shift is not None:
            tokens, stable = course.token_int, course.stable
            self._times = self._times.followed(scores, tokens, stable, model.blank)
        if not part.is_final:
            self._look()
            return None
        self.flicker.said += len(course.words)
        return self._end(results)

    def _look(self) -> None:
        """Look for the end of the utterance."""
        if self._endpointing is not None:
            course, seconds = self._course, self._model.speech.seconds
            activity, shift = course.activity, self._shift
            if shift is None:
                activity = Activity(course.samples, end=course.grown)
                shift = seconds(1)
            length = seconds(course.samples)
            self._reason = self._endpointing.ended(activity, shift, length)

    def _end(self, results: NBest[Recognized]) -> Utterance:
        """The utterance, which is over, and the start of the next."""
        course, model, reason = self._course, self._model, self._reason or FINAL
        token = model.converter.ids2tokens(list(course.token_int))
        tokens = self._spans(token)
        tokens = tokens if len(tokens) == len(token) else []
        seconds = model.speech.seconds
        start, length = seconds(self._before), seconds(course.samples)
        utterance = Utterance(
            results,
            start,
            start + length,
            reason,
            tokens,
            words(tokens, model.bundle.manifest.tokens.token_type),
            course.latency(model),
        )
        self._before += course.samples
        self._course, self._times = Course(behind=course.behind), TokenTimes()
        self._reason = None
        return utterance


def feed_together(
    model: Recognizer,
    streams: Sequence[Stream],
    samples: Sequence[np.ndarray],
    is_final: bool = False,
) -> list[list[Utterance]]:
    """Feed several streams of one model, whose graphs run for all of them at once.

    Each gets the results that it gets alone.

    Args:
        model: of the streams.
        streams: each another one.
        samples: for each, see :meth:`Stream.feed`.
        is_final: whether their utterances end with these.

    Returns:
        The utterances of each that have ended.
    """
    for stream, given in zip(streams, samples, strict=True):
        stream.take(given)
    ended: list[list[Utterance]] = [[] for _ in streams]
    going = list(range(len(streams)))
    while going:
        parts = {i: streams[i].next_part(is_final) for i in going}
        work = {i: part for i, part in parts.items() if part is not None}
        if not work:
            break
        begin = time.perf_counter()
        all_progress = model.engine.feed(list(work.values()))
        seconds = (time.perf_counter() - begin) / len(work)
        going = []
        for i, progress in zip(work, all_progress):
            utterance = streams[i].made(work[i], progress, seconds)
            if utterance is not None:
                ended[i].append(utterance)
            if utterance is None or utterance.reason != FINAL:
                going.append(i)
    return ended


def _words_of(token: Sequence[Span], places: Sequence[Span]) -> list[Span]:
    """Words with the times of their first and last tokens."""
    return [
        Span(
            place.text,
            token[int(place.start)].start,
            token[int(np.ceil(place.end)) - 1].end,
        )
        for place in places
    ]
