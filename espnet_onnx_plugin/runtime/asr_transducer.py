"""Stand-alone transducers: ``espnet2.bin.asr_transducer_inference`` with a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.bundle.typed import parse
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.chunk_encoder import ChunkEncoder
from espnet_onnx_plugin.runtime.core.encoder import Utterance
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.stream_features import (
    TransducerFrontend,
    extractor,
)
from espnet_onnx_plugin.runtime.io.speech import check_values, one_channel, prepare
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.open_streams import OpensStreams
from espnet_onnx_plugin.runtime.recognition.options import AsrTransducerOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    PLACEHOLDER,
    NBest,
    Recognized,
)
from espnet_onnx_plugin.runtime.recognition.stream_engine import (
    Part,
    StreamEngine,
    StreamState,
    ends_of,
)
from espnet_onnx_plugin.runtime.search.graph_scorer import open_scorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.transducer import hypotheses
from espnet_onnx_plugin.runtime.search.transducer_networks import GraphNetworks
from espnet_onnx_plugin.runtime.search.transducer_online import (
    Hypotheses,
    OnlineTransducerSearch,
)
from espnet_onnx_plugin.runtime.search.transducer_stand_alone import (
    StandAloneConfig,
    StandAloneSearch,
)
from espnet_onnx_plugin.runtime.text.converter import TokenConverter


class Speech2Text(
    OpensStreams, SpeechModel[AsrTransducerOptions, Transducer, NBest[Recognized]]
):
    """Recognize speech; a drop-in for ESPnet's class of the same name.

    With ``streaming`` it opens any number of streams; ESPnet's ``streaming_decode`` has
    one of its own.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`AsrTransducerOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Examples:
        >>> speech2text = Speech2Text("exp/asr_train/onnx/int8", beam_size=10)
        >>> hypotheses = speech2text(speech)
        >>> speech2text.hypotheses_to_results(hypotheses)
        [(text, token, token_int, hypothesis), ...]
        >>> speech2text = Speech2Text("exp/asr_train/onnx/int8", streaming=True)
        >>> partial = speech2text.streaming_decode(speech[:10240])
        >>> hypotheses = speech2text.streaming_decode(speech[10240:], is_final=True)
        >>> stream = speech2text.open()
        >>> stream.feed(speech)
        []
        >>> stream.final().results
        [(text, token, token_int, hypothesis), ...]
    """

    task = "asr_transducer"
    kind = Transducer
    options_class = AsrTransducerOptions
    search: StandAloneSearch
    heard_by_tokens = True

    def _open(self) -> None:
        super()._open()
        self.blank = self._described.blank
        self._engine: StreamEngine[Hypotheses] | None = None
        if self._options.window is not None:
            self._engine = self._open_engine(self._options.window)
        self.reset_streaming_cache()

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        vocabulary = len(TokenConverter(bundle).token_list)
        options: dict[str, Any] = dict(
            beam_size=min(beam_size, vocabulary), lm_weight=0.3
        )
        # The default search has no bound, and may take hours for noise; with a single
        # hypothesis it does not.
        if bundle.manifest.graphs["decoder"].grows:  # which no other search takes
            return {**options, "beam_size": 1}
        return {**options, "beam_search_config": dict(search_type="tsd")}

    def _build_search(self) -> StandAloneSearch:
        options, bundle, device = self._options, self.bundle, self.device
        roles = ("decoder", "joint", "joint_memory")
        lm = None
        if "lm" in bundle.manifest.graphs and options.lm_weight:
            lm = open_scorer(bundle, "lm", device)
        return StandAloneSearch(
            parse(StandAloneConfig, options.beam_search_config, "beam_search_config"),
            GraphNetworks(*(Session(bundle, role, device) for role in roles)),
            self._described,
            options.beam_size,
            self.converter.token_list,
            lm,
            options.lm_weight,
            options.nbest,
        )

    def _open_engine(self, window: int) -> StreamEngine[Hypotheses]:
        """The engine of streams, in chunks of so many samples."""
        options, framing = self._options, self.speech.framing
        encoder = ChunkEncoder(self.bundle, self.device, max(options.left_context, 0))
        if framing is None:
            raise PluginError(
                f"{self.bundle.path} does not say how frames are cut; export it again"
            )
        extract = extractor(self.bundle, self.device)
        frontend = TransducerFrontend(
            framing, lambda samples: encoder.normalize(extract(samples)), window
        )
        if frontend.fewest < encoder.stream.shortest:
            raise PluginError(
                f"decoding_window {options.decoding_window} is too short: it has "
                f"{frontend.fewest} feature frames, and the encoder takes "
                f"{encoder.stream.shortest} or more; give a longer one"
            )
        search = OnlineTransducerSearch(self.search)
        return StreamEngine(frontend, encoder, search, exact=False, part=window)

    # Streams

    @property
    def engine(self) -> StreamEngine[Hypotheses]:
        """Runs the streams.

        Raises:
            PluginError: if the model was not opened with ``streaming``.
        """
        if self._engine is None:
            raise PluginError("streams take a model opened with streaming")
        return self._engine

    def results(self, hypotheses: Sequence[Hypothesis]) -> NBest[Recognized]:
        """The n-best list of hypotheses."""
        return self.hypotheses_to_results(hypotheses)

    def reset_streaming_cache(self) -> None:
        """Forget what was given to :meth:`streaming_decode` of an utterance."""
        self._state: StreamState[Hypotheses] | None = None

    def streaming_decode(
        self, speech: np.ndarray, is_final: bool = False
    ) -> list[Hypothesis]:
        """Recognize the next part of an utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate, any
                number of them; of too few for a frame, on which ESPnet fails, more is
                waited for.
            is_final: whether the utterance ends with it.

        Returns:
            Of a final part up to ``nbest`` hypotheses, best first; else all that the
            search goes on with, in ESPnet's order, which are none at first.

        Raises:
            PluginError: if the model was not opened with ``streaming``.
        """
        engine = self.engine
        samples = one_channel(check_values(speech, self.speech), self.speech)
        state = self._state or engine.start()
        [made] = engine.feed([Part(state, samples, is_final)])
        self._state = made.state
        return list(made.hypotheses) or hypotheses(made.state.search.partials())

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """Make the graphs' input of an utterance.

        Args:
            speech: (samples,), (samples, channels) or (frames, dim).

        Raises:
            TooShortUttError: where ESPnet raises it, which is not of a stream.
        """
        if self._engine is None:
            return self._checked(speech)
        return prepare(np.asarray(speech), self.speech)

    def batch(
        self, utterances: Sequence[Utterance], primers: Primers | None = None
    ) -> list[NBest[Recognized]]:
        """Recognize several utterances together, as a whole or as streams."""
        window = self._options.window
        if window is None:
            return super().batch(utterances, primers)
        arrays = [np.asarray(utterance) for utterance in utterances]
        ends = [ends_of(len(array), window) for array in arrays]
        cut = dict(frontend="espnet", chunk_seconds=self.speech.seconds(window))
        return self.whole(arrays, ends, cut)

    # Whole utterances

    def __call__(  # type: ignore[override]  # ESPnet's gives the hypotheses alone
        self, speech: np.ndarray
    ) -> list[Hypothesis] | NBest[Recognized]:
        """Recognize one utterance as a whole.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate, or
                features (frames, dim) where the model has no frontend.

        Returns:
            Up to ``nbest`` hypotheses, best first, which begin with the blank; with
            ``return_decoded_hyp`` what :meth:`hypotheses_to_results` makes of them.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        # As in ESPnet, also with ``streaming``.
        [results] = super().batch([self._checked(speech)])
        if self._options.return_decoded_hyp:
            return results
        return [result.hypothesis for result in results]

    def recognize(self, speech: np.ndarray, **others: Any) -> NBest[Recognized]:
        """Hypotheses of one utterance, a stream if so opened, with texts and tokens."""
        return self.batch([self.prepare(speech)])[0]

    def hypotheses_to_results(
        self, nbest_hyps: Iterable[Hypothesis]
    ) -> NBest[Recognized]:
        """Texts and tokens of hypotheses, with the name of ESPnet's method."""
        return NBest(
            Recognized.of(self.converter, [i for i in h.yseq if i != 0], h)
            for h in nbest_hyps
        )

    def _results(self, stages: Sequence[Stage]) -> list[NBest[Recognized]]:
        [stage] = stages
        return [self.hypotheses_to_results(found) for found in stage.hypotheses]

    def placeholder(self) -> NBest[Recognized]:
        """The results of an utterance that is too short for the encoder."""
        return NBest([PLACEHOLDER] * self.nbest)
