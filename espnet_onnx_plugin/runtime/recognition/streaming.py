"""Base of the classes that recognize streams, which stand for ESPnet's."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.block_encoder import BlockEncoder
from espnet_onnx_plugin.runtime.core.stream_features import (
    ExactFrontend,
    ReadFeatures,
    StreamFrontend,
    extractor,
)
from espnet_onnx_plugin.runtime.io.speech import check_values, one_channel, prepare
from espnet_onnx_plugin.runtime.recognition.course import Course
from espnet_onnx_plugin.runtime.recognition.endpoint import Endpointing
from espnet_onnx_plugin.runtime.recognition.heard import (
    STREAM_FILE,
    Flicker,
    Heard,
    Utterance,
)
from espnet_onnx_plugin.runtime.recognition.model import RecognitionModel
from espnet_onnx_plugin.runtime.recognition.options import StreamingOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    Lines,
    NBest,
    Recognized,
    Timing,
    recognized,
)
from espnet_onnx_plugin.runtime.recognition.stream import Stream, feed_together
from espnet_onnx_plugin.runtime.recognition.stream_engine import (
    Part,
    StreamEngine,
    ends_of,
)
from espnet_onnx_plugin.runtime.search.online import OnlineConfig, check_streaming
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, OnlineSearch

logger = logging.getLogger(__name__)

OptionsT = TypeVar("OptionsT", bound=StreamingOptions)

#: Of an utterance that nothing was found in, for files with a line for each utterance.
NOTHING = Recognized("", [], [], Hypothesis(yseq=[], score=0.0))


class StreamingModel(
    RecognitionModel[OptionsT, LabelSynchronous], ABC, Generic[OptionsT]
):
    """A bundle's model for speech that is still coming in.

    Any number of streams share it. Called as ESPnet's class of the same name, it has
    one of its own.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.
    """

    kind = LabelSynchronous
    other_kind = (
        "has no search over streams: that takes a model with a CTC or an attention "
        "decoder"
    )
    #: Frontend that cuts as ESPnet does.
    espnet_frontend: type[StreamFrontend]
    #: Whether tokens come in the order in which they are spoken.
    follows_speech = True

    def _open(self) -> None:
        super()._open()
        check_streaming(self._described)
        #: Id of the CTC's blank.
        self.blank = self._described.blank
        exact = self._options.frontend == "exact"
        encoder = BlockEncoder(self.bundle, self.device, exact)
        self.engine: StreamEngine[Any] = StreamEngine(
            self._open_frontend(encoder, exact), encoder, self._build_search(), exact
        )
        self.reset()

    def _open_frontend(self, encoder: BlockEncoder, exact: bool) -> StreamFrontend:
        framing = self.speech.framing
        if framing is None:
            raise PluginError(
                f"{self.bundle.path} does not say how frames are cut; export it again"
            )
        if exact and encoder.stream.normalize == "utterance_mvn":
            raise PluginError(
                "utterance_mvn normalizes by the whole utterance, which a stream does "
                "not have: use frontend espnet, which normalizes by the chunk, or a "
                "model with global_mvn"
            )
        extract = extractor(self.bundle, self.device)
        if not exact:
            return self.espnet_frontend(
                framing, lambda x: encoder.normalize(extract(x))
            )
        reads_features = "frontend" not in self.bundle.manifest.graphs
        return (ReadFeatures if reads_features else ExactFrontend)(framing, extract)

    @property
    def _has_ctc(self) -> bool:
        blocks = self.bundle.manifest.graphs["stream_blocks"]
        return "ctc_log_probs" in blocks.outputs

    def _online_config(self, **more: Any) -> OnlineConfig:
        """Settings of the blocks that the options ask for."""
        options = self._options
        return OnlineConfig(
            disable_repetition_detection=options.disable_repetition_detection,
            encoded_feat_length_limit=options.encoded_feat_length_limit,
            decoder_text_length_limit=options.decoder_text_length_limit,
            nbest=options.nbest,
            **more,
        )

    @abstractmethod
    def _build_search(self) -> OnlineSearch[Any]:
        """Build the search that the options ask for."""

    # Streams

    def open(self, endpointing: Endpointing | None = None) -> Stream:
        """A stream of which nothing has come yet.

        Args:
            endpointing: rules by which its utterances end by themselves.
        """
        return Stream(self, endpointing)

    def resume(self, saved: bytes) -> Stream:
        """The stream that :meth:`.Stream.save` has given, in this process or another.

        Raises:
            PluginError: if it is not one of this model.
        """
        return Stream.resume(self, saved)

    def feed(
        self, streams: Sequence[Stream], samples: Sequence[np.ndarray]
    ) -> list[list[Utterance]]:
        """Feed several streams of this model, each its own; see :meth:`.Stream.feed`.

        The graphs run for all of them at once.
        """
        return feed_together(self, streams, samples)

    # ESPnet's interface

    def reset(self) -> None:
        """Forget what was given to :meth:`__call__` of an utterance."""
        self._state = self.engine.start()

    def __call__(self, speech: np.ndarray, is_final: bool = True) -> NBest[Recognized]:
        """Recognize the next part of an utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate, or
                features (frames, dim) where the model has no frontend.
            is_final: whether the utterance ends with it.

        Returns:
            Up to ``nbest`` tuples (text, token, token_int, hypothesis), best first: of
            a final part the result, else what ended in the newest block, often nothing.
        """
        begin = time.perf_counter()
        samples = one_channel(check_values(speech, self.speech), self.speech)
        [made] = self.engine.feed([Part(self._state, samples, is_final)])
        self._state = made.state
        results = self.results(made.hypotheses)
        self.timing = Timing.of(self.engine.seconds, time.perf_counter() - begin)
        return results

    def recognize(self, speech: np.ndarray) -> NBest[Recognized]:
        """Everything that decoding gives for one utterance, see :meth:`__call__`."""
        return self(speech)

    def results(self, hypotheses: Sequence[Hypothesis]) -> NBest[Recognized]:
        """The n-best list of hypotheses."""
        return recognized(self.converter, hypotheses[: self.nbest])

    # Whole utterances

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """Make the frontend's input of an utterance, as ESPnet's preprocessor does.

        Args:
            speech: (samples,), (samples, channels) or (frames, dim).
        """
        speech = prepare(np.asarray(speech), self.speech)
        logger.info("speech length: %d", len(speech))
        return speech

    def _ends(self, length: int) -> list[int]:
        """Ends of the parts that ESPnet's command feeds an utterance in.

        Where it has no whole part, ESPnet fails or feeds none of it.
        """
        return ends_of(length, self._options.sim_chunk_length or length + 1)

    def batch(self, utterances: Sequence[np.ndarray]) -> list[NBest[Recognized]]:
        """Recognize several utterances, part by part, as streams of their own.

        Each gets the result that it gets alone; of the time that a part takes in all
        of them, each has an equal share.

        Args:
            utterances: what :meth:`prepare` gave.

        Returns:
            For each what :class:`.Heard` holds.
        """
        begin = time.perf_counter()
        ends = [self._ends(len(utterance)) for utterance in utterances]
        courses = [Course() for _ in utterances]
        results: list[NBest[Recognized]] = [NBest() for _ in utterances]
        for i, part, made, seconds in self.engine.whole(utterances, ends):
            if part.is_final:
                results[i] = self.results(made.hypotheses)
            course = courses[i].followed(self, part, made, results[i], seconds)
            courses[i] = course
            if part.is_final:
                flicker = Flicker(course.erased, len(course.words))
                results[i] = Heard(results[i], course.latency(self), flicker)
        self.timing = Timing.of(self.engine.seconds, time.perf_counter() - begin)
        return results

    def placeholder(self) -> NBest[Recognized]:
        """The results of an utterance in which nothing can be said."""
        return NBest()

    def files(self, results: NBest[Recognized]) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path.

        Where nothing was found ESPnet writes no line, and its scoring, which puts lines
        side by side, goes astray; here it is an empty one. Beside the best result lie
        the figures of the stream, as JSON.
        """
        files = (results or NBest([NOTHING])).files()
        if isinstance(results, Heard):
            options = self._options
            chunk = self.speech.seconds(options.sim_chunk_length)
            figures = dict(frontend=options.frontend, chunk_seconds=chunk)
            files[f"1best_recog/{STREAM_FILE}"] = json.dumps(
                {**figures, **results.figures()}
            )
        return files

    def lines(self, result: Recognized) -> dict[str, Lines]:
        """Lines of a result for ESPnet's files, by the file's name."""
        return result.lines()
