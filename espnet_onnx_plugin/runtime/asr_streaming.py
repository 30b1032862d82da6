"""Speech to text on a stream: the counterpart of ``asr_inference_streaming``."""

from __future__ import annotations

from functools import partial
from typing import Any

from espnet_onnx_plugin.runtime.core.stream_features import AsrFrontend
from espnet_onnx_plugin.runtime.recognition.options import AsrStreamingOptions
from espnet_onnx_plugin.runtime.recognition.streaming import StreamingModel
from espnet_onnx_plugin.runtime.search.online import OnlineBeamSearch
from espnet_onnx_plugin.runtime.search.protocol import OnlineSearch


class Speech2TextStreaming(StreamingModel[AsrStreamingOptions]):
    """Recognize speech part by part; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.StreamingModel`.
        options: ESPnet's decoding options, see :class:`AsrStreamingOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Examples:
        >>> speech2text = Speech2TextStreaming("exp/asr_train/onnx/int8", beam_size=10)
        >>> speech2text(speech[:8000], is_final=False)
        []
        >>> speech2text(speech[8000:], is_final=True)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "asr"
    options_class: type[AsrStreamingOptions] = AsrStreamingOptions
    espnet_frontend = AsrFrontend

    def _build_search(self) -> OnlineSearch[Any]:
        builder = self._builder(self._described, self._options)
        # As in ESPnet, the blocks are of 40 frames, whatever the encoder's are.
        online = self._online_config()
        return builder.build(
            partial(OnlineBeamSearch, online=online),
            builder.scorers(),
            pre_beam=self._options.ctc_weight != 1.0,
        )
