"""Synthesis as the manifest of a bundle describes it, or an error where it does not."""

from __future__ import annotations

from espnet_onnx_plugin.bundle import Manifest, ScoreInputs, Synthesis
from espnet_onnx_plugin.bundle.search import Durations, Features, Frames, Framewise
from espnet_onnx_plugin.errors import PluginError

_REMEDY = "export the bundle again"


def synthesis_of(manifest: Manifest) -> Synthesis:
    """Description of what a model makes, and reads besides text.

    Raises:
        PluginError: if the manifest has none.
    """
    if manifest.synthesis is None:
        raise PluginError(f"manifest.yaml says nothing of synthesis; {_REMEDY}")
    return manifest.synthesis


def score_of(manifest: Manifest) -> ScoreInputs:
    """Description of what a model reads of a score.

    Raises:
        PluginError: if the manifest has none.
    """
    score = synthesis_of(manifest).score
    if score is None:
        raise PluginError(f"manifest.yaml says nothing of scores; {_REMEDY}")
    return score


def features_of(manifest: Manifest) -> Features:
    """Description of the way from text to features.

    Raises:
        PluginError: if the manifest describes a search instead.
    """
    if not isinstance(manifest.search, (Durations, Frames, Framewise)):
        raise PluginError(f"manifest.yaml says nothing of features; {_REMEDY}")
    return manifest.search
