"""Block-synchronous beam search over streams: ESPnet's ``BatchBeamSearchOnline``.

Tsunoo et al., "Streaming Transformer ASR with Blockwise Synchronous Beam Search"
(https://arxiv.org/abs/2006.14941).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.search.protocol import Found, Piece
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.utterance import BeamSearchConfig


@dataclass(frozen=True)
class OnlineConfig:
    """Settings of a search over streams, in the words of ESPnet's streaming commands.

    Attributes:
        block_size, hop_size, look_ahead: encoder frames. Block n ends ``block_size -
            look_ahead + n * hop_size`` frames from the start. ESPnet's commands take
            40, 16 and 16 whatever the encoder has; only ``st_inference_streaming``
            with ``hugging_face_decoder`` hands on the encoder's block size.
        disable_repetition_detection: whether a block goes on behind a token that its
            hypothesis has already.
        encoded_feat_length_limit: newest frames that are searched; 0: all.
        decoder_text_length_limit: newest tokens that the decoder reads; 0: all.
        incremental_decode: whether one hypothesis alone goes on behind a block.
        hold_n: newest tokens that ``incremental_decode`` leaves open; as in ESPnet, of
            the time-synchronous search alone.
        blank_penalty: factor on the probability of the blank, of that search too.
    """

    block_size: int = 40
    hop_size: int = 16
    look_ahead: int = 16
    disable_repetition_detection: bool = False
    encoded_feat_length_limit: int = 0
    decoder_text_length_limit: int = 0
    incremental_decode: bool = False
    hold_n: int = 0
    blank_penalty: float = 1.0


@dataclass(frozen=True, eq=False)
class OnlineState:
    """The state of a stream under :class:`OnlineBeamSearch`."""


class OnlineBeamSearch:
    """Label-synchronous search over streams, block by block.

    Args:
        config: settings of the search.
        scorers: full scorers by name, in ESPnet's order; those of weight 0 are not
            asked.
        online: settings of the blocks.

    Raises:
        PluginError: for settings with which ESPnet's search breaks down.
    """

    def __init__(
        self,
        config: BeamSearchConfig,
        scorers: Mapping[str, FullScorer],
        online: OnlineConfig = OnlineConfig(),
    ):
        self._config = config
        self._online = online
        #: The scorers that are asked, by name.
        self.scorers = {k: s for k, s in scorers.items() if config.weights.get(k)}
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def open(self) -> OnlineState:
        """The state of a stream before its first piece."""
        return OnlineState()

    def feed(self, pieces: Sequence[Piece[OnlineState]]) -> list[Found[OnlineState]]:
        """Search through the blocks of streams that are complete now."""
        raise PluginError("searches over streams are not there yet")
