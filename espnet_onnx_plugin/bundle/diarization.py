"""Diarization, who speaks when, as a bundle describes it.

The graph ``encoder`` makes frames of a recording, of the features that the graph
``frontend`` makes of it, where there is one, of the bottleneck feature of a separation,
or of both. What the frames say of each speaker is made by ``decoder``, or by
``attractor``: End-to-End Neural Diarization with Encoder-Decoder based Attractors
(EEND-EDA), S. Horiguchi et al., https://arxiv.org/abs/2106.10654.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Diarization:
    """Activities of speakers.

    Attributes:
        num_spk: how many the decoder tells apart; None: attractors, which also count
            them.
        normalized: what ESPnet takes from the waveform of a mixture while it diarizes
            it, in place, so that it separates another one: its ``mean``, its
            ``deviation`` from that, or nothing.
    """

    num_spk: int | None
    normalized: Literal["mean", "deviation"] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Graphs without which it runs nothing."""
        return ("encoder", "attractor" if self.num_spk is None else "decoder")
