"""Speech translation on a stream: the counterpart of ``st_inference_streaming``."""

from __future__ import annotations

from functools import partial
from typing import Any

from espnet_onnx_plugin.bundle import BlockStream
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.stream_features import StFrontend
from espnet_onnx_plugin.runtime.recognition.options import StStreamingOptions
from espnet_onnx_plugin.runtime.recognition.streaming import StreamingModel
from espnet_onnx_plugin.runtime.search.generate import NOT_ASKED_FOR
from espnet_onnx_plugin.runtime.search.online import OnlineBeamSearch
from espnet_onnx_plugin.runtime.search.online_time_sync import OnlineTimeSyncSearch
from espnet_onnx_plugin.runtime.search.protocol import OnlineSearch
from espnet_onnx_plugin.runtime.search.time_sync import check_time_sync


class Speech2TextStreaming(StreamingModel[StStreamingOptions]):
    """Translate speech part by part; a drop-in for the class of that name in ESPnet's
    ``st_inference_streaming``.

    Args:
        model_dir, provider, threads, session: see :class:`.StreamingModel`.
        options: ESPnet's decoding options, see :class:`StStreamingOptions`.

    Examples:
        >>> speech2text = Speech2TextStreaming("exp/st_train/onnx/int8", beam_size=10)
        >>> speech2text(speech[:8000], is_final=False)
        []
        >>> speech2text(speech[8000:], is_final=True)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "st"
    options_class = StStreamingOptions
    espnet_frontend = StFrontend
    follows_speech = False

    def _build_search(self) -> OnlineSearch[Any]:
        options, described = self._options, self._described
        if described.hugging_face_decoder and not options.hugging_face_decoder:
            raise PluginError(NOT_ASKED_FOR)
        builder = self._builder(self._described, self._options)
        blocks = {}
        if described.hugging_face_decoder:
            # As in ESPnet, blocks are as long as the encoder's, whatever its hop is.
            stream = self.bundle.manifest.stream
            if isinstance(stream, BlockStream):
                blocks = dict(block_size=stream.block_size)
        online = self._online_config(
            incremental_decode=options.incremental_decode,
            hold_n=options.hold_n,
            blank_penalty=options.blank_penalty,
            **blocks,
        )
        scorers = builder.scorers()
        if options.time_sync:
            check_time_sync(described, builder.has_ctc)
            by_time = partial(OnlineTimeSyncSearch, online=online)
            return builder.build(by_time, scorers, pre_beam=True)
        by_label = partial(OnlineBeamSearch, online=online)
        return builder.build(by_label, scorers, pre_beam=True)

    def _ends(self, length: int) -> list[int]:
        """Ends of the parts that ESPnet's command feeds an utterance in.

        One with less than two whole parts is fed in one.
        """
        ends = super()._ends(length)
        return ends if len(ends) > 2 else [length]
