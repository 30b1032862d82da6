"""From text or a score to features: what all ways have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.synthesis.model_inputs import ModelInputs
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


class Graphs:
    """Graphs of a bundle by role, each opened when it is first asked for.

    Args:
        bundle: where they lie.
        device: where they run.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._bundle, self._device = bundle, device
        self._sessions: dict[str, Session] = {}

    def __contains__(self, role: str) -> bool:
        return role in self._bundle.manifest.graphs

    def __getitem__(self, role: str) -> Session:
        if role not in self._sessions:
            self._sessions[role] = Session(self._bundle, role, self._device)
        return self._sessions[role]


@dataclass(frozen=True)
class Synthesized:
    """Features of one utterance; None where the model makes no such thing.

    Attributes:
        feat_gen: (frames, dim), normalized.
        feat_gen_denorm: the same, in the domain of the features of speech.
        feats: (frames, dim), hidden ones of a model that was trained with its vocoder.
        condition: (dim,), what the vocoder reads for the whole utterance.
        f0: fundamental frequency in Hz (frames,), where the vocoder reads it.
        att_w: attention or alignment, (frames, symbols), or (layers, heads, frames,
            symbols).
        duration: of each symbol (symbols,), where there is no ``att_w``; its logarithm
            in teacher forcing.
        pitch, energy: of each symbol (symbols, 1), as the model predicts them; pitch of
            a model that sings (frames,).
        prob: probability of the end (frames,).
        logits: of discrete tokens, (1, frames, tokens).
    """

    feat_gen: np.ndarray | None = None
    feat_gen_denorm: np.ndarray | None = None
    feats: np.ndarray | None = None
    condition: np.ndarray | None = None
    f0: np.ndarray | None = None
    att_w: np.ndarray | None = None
    duration: np.ndarray | None = None
    pitch: np.ndarray | None = None
    energy: np.ndarray | None = None
    prob: np.ndarray | None = None
    logits: np.ndarray | None = None

    def outputs(self) -> dict[str, np.ndarray]:
        """ESPnet's outputs by its names, with the measures of the attention."""
        ours = ("feats", "condition", "f0")
        made = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in ours
        }
        if self.att_w is not None:
            made.update(attention_measures(self.att_w))
        return made


class FeatureModel(Protocol):
    """A model that makes the features of an utterance."""

    def features(
        self, inputs: ModelInputs, options: TtsOptions, noise: Noise
    ) -> Synthesized:
        """Make the features of one utterance.

        Args:
            inputs: of the utterance.
            options: those that ESPnet gives the model.
            noise: what is drawn from.

        Raises:
            PluginError: if durations or speech of teacher forcing do not fit.
        """


def attention_measures(weights: np.ndarray) -> dict[str, np.ndarray]:
    """``duration`` and ``focus_rate``, as ESPnet's ``DurationCalculator`` has them.

    Args:
        weights: (frames, symbols), or (layers, heads, frames, symbols) of which the
            most diagonal head counts.

    Returns:
        Frames of each symbol (symbols,), and the mean of the largest weights.
    """
    heads = list(weights.reshape(-1, *weights.shape[-2:]))
    focus = [head.max(axis=-1).mean() for head in heads]
    best = int(np.argmax(focus))
    duration = np.bincount(heads[best].argmax(axis=-1), minlength=weights.shape[-1])
    return {"duration": duration, "focus_rate": focus[best].astype(np.float32)}
