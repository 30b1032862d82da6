"""Models that open streams, and decode whole utterances as streams."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from espnet_onnx_plugin.runtime.recognition.course import Course, Recognizer
from espnet_onnx_plugin.runtime.recognition.endpoint import Endpointing
from espnet_onnx_plugin.runtime.recognition.heard import Flicker, Heard, Utterance
from espnet_onnx_plugin.runtime.recognition.results import NBest, Recognized, Timing
from espnet_onnx_plugin.runtime.recognition.stream import Stream, feed_together


class OpensStreams:
    """Base of models for speech that is still coming in.

    Any number of streams share a model.
    """

    #: See :class:`.Recognizer`.
    follows_speech = True
    heard_by_tokens = False

    def open(self: Recognizer, endpointing: Endpointing | None = None) -> Stream:
        """A stream of which nothing has come yet.

        Args:
            endpointing: rules by which its utterances end by themselves.
        """
        return Stream(self, endpointing)

    def resume(self: Recognizer, saved: bytes) -> Stream:
        """The stream that :meth:`.Stream.save` has given, in this process or another.

        Raises:
            PluginError: if it is not one of this model.
        """
        return Stream.resume(self, saved)

    def feed(
        self: Recognizer, streams: Sequence[Stream], samples: Sequence[np.ndarray]
    ) -> list[list[Utterance]]:
        """Feed several streams of this model, each its own; see :meth:`.Stream.feed`.

        The graphs run for all of them at once.
        """
        return feed_together(self, streams, samples)

    def whole(
        self: Recognizer,
        utterances: Sequence[np.ndarray],
        ends: Sequence[Sequence[int]],
        cut: Mapping[str, object],
    ) -> list[NBest[Recognized]]:
        """Recognize several whole utterances, part by part, as streams of their own.

        Each gets the result that it gets alone; of the time that a part takes in all
        of them, each has an equal share.

        Args:
            utterances: the engine's inputs.
            ends: where the parts of each end, the last one at its own end.
            cut: see :class:`.Heard`.

        Returns:
            For each what :class:`.Heard` holds.
        """
        begin = time.perf_counter()
        courses = [Course() for _ in utterances]
        results: list[NBest[Recognized]] = [NBest() for _ in utterances]
        for fed in self.engine.whole(utterances, ends):
            i, part, made = fed.utterance, fed.part, fed.made
            if part.is_final:
                results[i] = self.results(made.hypotheses)
            course = courses[i].followed(self, part, made, results[i], fed.seconds)
            courses[i] = course
            if part.is_final:
                flicker = Flicker(course.erased, len(course.words))
                results[i] = Heard(results[i], course.latency(self), flicker, cut)
        self.timing = Timing.of(self.engine.seconds, time.perf_counter() - begin)
        return results
