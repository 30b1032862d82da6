"""The networks of a transducer, and how checks compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session

States = Mapping[str, np.ndarray]


class Networks(Protocol):
    """The prediction network and the joint network."""

    @property
    def batches(self) -> bool:
        """Whether an utterance gets the same result in a batch as alone."""

    @property
    def grows(self) -> bool:
        """Whether the prediction network's states grow with every label."""

    def project(self, encoded: Encoded) -> np.ndarray:
        """The joint network's projection of the encoder output.

        Returns:
            (utterances, frames, joint).
        """

    def start(self) -> States:
        """States before the first label, each (1, ...)."""

    def predict(self, labels: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """The prediction network's output behind a label more.

        Args:
            labels: (rows,) int64.
            states: each (rows, ...).

        Returns:
            The joint network's projection of it, (rows, joint), and the next states.
        """

    def join(self, projected: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Log probabilities of the next label, (rows, frames, vocabulary).

        Args:
            projected: (rows, frames, joint).
            predicted: (rows, joint).
        """


class GraphNetworks:
    """The networks as graphs of a bundle.

    Args:
        decoder, joint, joint_memory: sessions of the graphs of these roles.
    """

    def __init__(self, decoder: Session, joint: Session, joint_memory: Session):
        self._decoder = decoder
        self._joint = joint
        self._joint_memory = joint_memory
        graphs = [s.graph for s in (decoder, joint, joint_memory)]
        self.batches = all(graph.batches for graph in graphs)
        self.grows = decoder.graph.grows
        self._next = {name: f"next_{name}" for name in decoder.graph.states}

    def project(self, encoded: Encoded) -> np.ndarray:
        """Project the encoder output, as :meth:`Networks.project`."""
        inputs = {name: encoded[name] for name in self._joint_memory.graph.inputs}
        return self._joint_memory.run(inputs, fetch=["projected"])["projected"]

    def start(self) -> States:
        """Zeros."""
        return self._decoder.initial_states({})

    def predict(self, labels: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """Read a label for each row, as :meth:`Networks.predict`."""
        feeds: dict[str, Value] = {"tokens": labels, **states}
        made = self._decoder.run(feeds, ["predicted", *self._next.values()])
        return made["predicted"], {k: made[new] for k, new in self._next.items()}

    def join(self, projected: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Score frames with predictions, as :meth:`Networks.join`."""
        feeds: dict[str, Value] = {"projected": projected, "predicted": predicted}
        return self._joint.run(feeds, ["log_probs"])["log_probs"]


class PredictionScorer:
    """The prediction network, to be compared."""

    def __init__(self, networks: Networks):
        self._networks = networks

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Its output behind each token of a sequence, (tokens, joint)."""
        states, rows = self._networks.start(), []
        for token in tokens:
            row, states = self._networks.predict(np.array([token]), states)
            rows.append(row[0])
        return np.stack(rows)


class JointScorer:
    """The joint network, to be compared."""

    def __init__(self, networks: Networks):
        self._networks = networks

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores of the label behind each token, (tokens, vocabulary).

        Each at another frame, from the first to the last.
        """
        predicted = PredictionScorer(self._networks).along(encoded, tokens)
        projected = self._networks.project(encoded)[0]
        frames = np.linspace(0, int(encoded.lengths[0]) - 1, len(tokens)).astype(int)
        return self._networks.join(projected[frames][:, None], predicted)[:, 0]
