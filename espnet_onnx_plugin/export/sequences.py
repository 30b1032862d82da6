"""Decoders as graphs over whole sequences: every position of every utterance at once.

Such a decoder searches nothing; it says what stands where a sequence is masked.
"""

from typing import Mapping

import torch

from espnet_onnx_plugin.bundle import Tensor

SEQUENCE_INPUTS = {
    "tokens": Tensor("int64", ("utterances", "tokens")),
    "tokens_lens": Tensor("int64", ("utterances",)),
}


class SequenceModule(torch.nn.Module):
    """What the exporter needs to know of a decoder of whole sequences.

    Attributes:
        reference: ESPnet's own module, which the graph is compared with.
        memory: a module from ``(encoder_out (utterances, frames, dim), lengths)`` to
            the tensors that every call reads.
        memory_tensors: those tensors by name, in the order of ``memory``'s results.
    """

    memory: torch.nn.Module
    memory_tensors: Mapping[str, Tensor]

    def __init__(self, reference: torch.nn.Module):
        super().__init__()
        self.reference = reference

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Score every token at every position.

        Args:
            tensors: what :data:`SEQUENCE_INPUTS` names, the memory's tensors.

        Returns:
            Scores (utterances, tokens, vocabulary), not normalized.
        """
        raise NotImplementedError
