"""Base of the classes that recognize streams, which stand for ESPnet's."""

from __future__ import annotations

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
from espnet_onnx_plugin.runtime.recognition.heard import NOTHING, Heard
from espnet_onnx_plugin.runtime.recognition.model import RecognitionModel
from espnet_onnx_plugin.runtime.recognition.open_streams import OpensStreams
from espnet_onnx_plugin.runtime.recognition.options import StreamingOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    Lines,
    NBest,
    Recognized,
    Timing,
    recognized,
)
from espnet_onnx_plugin.runtime.recognition.stream_engine import (
    Part,
    StreamEngine,
    ends_of,
)
from espnet_onnx_plugin.runtime.search.online import OnlineConfig, check_streaming
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, OnlineSearch

logger = logging.getLogger(__name__)

OptionsT = TypeVar("OptionsT", bound=StreamingOptions)


class StreamingModel(
    OpensStreams, RecognitionModel[OptionsT, LabelSynchronous], ABC, Generic[OptionsT]
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
        """Recognize several utterances, part by part, see :meth:`whole`.

        Args:
            utterances: what :meth:`prepare` gave.
        """
        ends = [self._ends(len(utterance)) for utterance in utterances]
        options = self._options
        chunk = self.speech.seconds(options.sim_chunk_length)
        cut = dict(frontend=options.frontend, chunk_seconds=chunk)
        return self.whole(utterances, ends, cut)

    def placeholder(self) -> NBest[Recognized]:
        """The results of an utterance in which nothing can be said."""
        return NBest()

    def files(self, results: NBest[Recognized]) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path.

        Where nothing was found it is an empty line, see :meth:`.Heard.files`.
        """
        heard = isinstance(results, Heard)
        return (results if heard else NBest(results or [NOTHING])).files()

    def lines(self, result: Recognized) -> dict[str, Lines]:
        """Lines of a result for ESPnet's files, by the file's name."""
        return result.lines()
