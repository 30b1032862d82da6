"""Search of stand-alone transducers over streams, which goes on from chunk to chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded, pad
from espnet_onnx_plugin.runtime.search.protocol import Found, Piece, Scorer
from espnet_onnx_plugin.runtime.search.transducer import hypotheses
from espnet_onnx_plugin.runtime.search.transducer_hypotheses import Partial
from espnet_onnx_plugin.runtime.search.transducer_stand_alone import StandAloneSearch

#: Hypotheses behind the newest chunk, in ESPnet's order; none before the first one.
#: What the networks gave for their labels is kept beside these, as ESPnet keeps it, and
#: is not to be pickled.
Hypotheses = Sequence[Partial]


class OnlineTransducerSearch:
    """Search over streams.

    Args:
        search: over whole utterances.

    Raises:
        PluginError: if it has to know the number of frames.
    """

    def __init__(self, search: StandAloneSearch):
        if search.config.search_type == "alsd":
            raise PluginError(
                "search_type alsd is not for streaming: it has to know the number of "
                "frames, and ESPnet's begins anew with each chunk; use default, tsd or "
                "maes"
            )
        self._search = search

    @property
    def scorers(self) -> Mapping[str, Scorer]:
        """The scorers that are asked, by name."""
        return self._search.scorers

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that the newest call spent, by part."""
        return self._search.seconds

    def open(self) -> Hypotheses:
        """The state of a stream before its first piece."""
        return ()

    def running(self, state: Hypotheses) -> list[Sequence[int]]:
        """Labels of the hypotheses, best first."""
        best = sorted(state, key=lambda partial: partial.score, reverse=True)
        return [partial.labels.labels() for partial in best]

    def feed(self, pieces: Sequence[Piece[Hypotheses]]) -> list[Found[Hypotheses]]:
        """Search on through several streams.

        As in ESPnet a piece that is not final gives all hypotheses, as the search left
        them.
        """
        search = self._search
        search.seconds = {"decoder": 0.0, "lm": 0.0}
        behind: list[Hypotheses] = [piece.state for piece in pieces]
        asked = [i for i, piece in enumerate(pieces) if len(piece.encoder_out)]
        if asked:
            frames = [pieces[i].encoder_out for i in asked]
            lengths = np.array([len(own) for own in frames])
            encoded = Encoded(encoder_out=pad(frames), encoder_out_lens=lengths)
            starts = search.starts(encoded)
            begun = [behind[i] or [start] for i, start in zip(asked, starts)]
            for i, found in zip(asked, search.through(encoded, begun)):
                behind[i] = found
        return [
            (
                Found(self.open(), hypotheses(search.result(partials)))
                if piece.is_final
                else Found(partials, hypotheses(partials))
            )
            for piece, partials in zip(pieces, behind)
        ]
