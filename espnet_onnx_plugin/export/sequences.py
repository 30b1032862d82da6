"""Decoders as graphs over whole sequences: every position of every utterance at once.

Such a decoder searches nothing; it says what stands where a sequence is masked.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.steps import DecoderModule

SEQUENCE_INPUTS = {
    "tokens": Tensor("int64", ("utterances", "tokens")),
    "tokens_lens": Tensor("int64", ("utterances",)),
}


class SequenceModule(DecoderModule):
    """A decoder that scores every position of a sequence."""

    def graph_spec(self, vocabulary: int) -> GraphSpec:
        """The graph for so many tokens."""
        inputs = {**SEQUENCE_INPUTS, **self.memory_tensors}
        axes = ("utterances", "tokens", vocabulary)
        return GraphSpec(self, inputs, {"scores": Tensor("float32", axes)})

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Score every token at every position.

        Args:
            tensors: what :data:`SEQUENCE_INPUTS` names, the memory's tensors.

        Returns:
            Scores (utterances, tokens, vocabulary), not normalized.
        """
        raise NotImplementedError
