"""Transducers as graphs: a prediction network, label by label, and a joint network.

The *prediction network* reads one label for each row and the states behind the labels
before it. The *joint network* scores every label at each frame, given the encoder's
output there and what the network predicted. Both are projected first, where they are
made: a frame is met with many predictions, and a prediction with many frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.steps import DecoderModule


class PredictionModule(DecoderModule):
    """A prediction network, and the joint network's projection of what it predicts.

    Args:
        reference: ESPnet's module.
        projection: layer ``lin_dec`` of the joint network.

    Attributes:
        states: of the rows, as the inputs have them.
    """

    def __init__(self, reference: torch.nn.Module, projection: torch.nn.Linear):
        super().__init__(reference)
        self.projection = projection
        self.states: Mapping[str, State] = {}

    def graph_spec(self, vocabulary: int) -> GraphSpec:
        """The graph of one label for each row."""
        inputs = {"tokens": Tensor("int64", ("rows",))}
        size = self.projection.out_features
        outputs = {"predicted": Tensor("float32", ("rows", size))}
        return GraphSpec(self, inputs, outputs, self.states)

    def forward(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Read a label.

        Args:
            tokens: (rows,) int64.
            states: what :attr:`states` names.

        Returns:
            The projected prediction (rows, joint), then the new states.
        """
        predicted, *states = self.predict(tokens, *states)
        return (self.projection(predicted), *states)

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Output (rows, size) before the projection, and the new states."""
        raise NotImplementedError

    def score_reference(self, label: int, state: Any) -> tuple[torch.Tensor, Any]:
        """Output (size,) of ESPnet's module behind a label, and its new state."""
        hypothesis = SimpleNamespace(yseq=[label], dec_state=state)
        predicted, state, _ = self.reference.score(hypothesis, {})
        return predicted, state


class JointModule(DecoderModule):
    """``espnet2.asr_transducer.joint_network.JointNetwork``.

    Its memory is the projected encoder output, of which the graph gets the frames that
    it is to score.

    Args:
        joint: ESPnet's module.
    """

    def __init__(self, joint: torch.nn.Module):
        super().__init__(joint)
        self.size = joint.lin_enc.out_features
        self.memory = _EncoderProjection(joint.lin_enc)
        axes = ("utterances", "frames", self.size)
        self.memory_tensors = {"projected": Tensor("float32", axes)}

    def graph_spec(self, vocabulary: int) -> GraphSpec:
        """The graph of some frames of each row."""
        inputs = {
            "projected": Tensor("float32", ("rows", "frames", self.size)),
            "predicted": Tensor("float32", ("rows", self.size)),
        }
        scores = Tensor("float32", ("rows", "frames", vocabulary))
        return GraphSpec(self, inputs, {"log_probs": scores})

    def forward(self, projected: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Score every label at frames, with one prediction for all of a row's.

        Args:
            projected: (rows, frames, joint).
            predicted: (rows, joint).

        Returns:
            Log probabilities (rows, frames, vocabulary).
        """
        joined = self.reference.joint_activation(projected + predicted[:, None])
        return torch.log_softmax(self.reference.lin_out(joined), dim=-1)


class _EncoderProjection(torch.nn.Module):
    """The joint network's projection of the encoder output."""

    def __init__(self, projection: torch.nn.Linear):
        super().__init__()
        self.projection = projection

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> torch.Tensor:
        """Project (utterances, frames, dim), whatever the lengths."""
        return self.projection(encoder_out)
