"""``decoder: stateless`` of a stand-alone transducer: it sees the last label alone."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.layers.stand_alone_prediction import (
    StandAlonePrediction,
)
from espnet_onnx_plugin.export.registry import Arch, register


class StatelessPrediction(StandAlonePrediction):
    """``espnet2.asr_transducer.decoder.stateless_decoder.StatelessDecoder``."""

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The labels' embeddings."""
        return (self.reference.embed(tokens),)


register(
    Arch(
        role="transducer_decoder",
        name="stateless",
        wrap=StatelessPrediction,
        tiny={"embedding": dict(embed_size=8)},
    )
)
