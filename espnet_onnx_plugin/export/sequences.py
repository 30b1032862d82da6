"""Decoders as graphs over whole sequences: every position of every utterance at once.

Such a decoder searches nothing; it says what stands where a sequence is masked.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.steps import GraphModule

SEQUENCE_INPUTS = {
    "tokens": Tensor("int64", ("utterances", "tokens")),
    "tokens_lens": Tensor("int64", ("utterances",)),
}


class SequenceModule(GraphModule):
    """A decoder that scores every position of a sequence."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Score every token at every position.

        Args:
            tensors: what :data:`SEQUENCE_INPUTS` names, the memory's tensors.

        Returns:
            Scores (utterances, tokens, vocabulary), not normalized.
        """
        raise NotImplementedError
