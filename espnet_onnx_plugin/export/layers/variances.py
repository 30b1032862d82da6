"""Pitch and energy, which teacher forcing reads besides speech and durations."""

from __future__ import annotations

from dataclasses import replace

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Energy, Features, Pitch
from espnet_onnx_plugin.export.archs.feats_extract import Analysis
from espnet_onnx_plugin.export.tts_module import TTSModule


class EnergyAnalysis(Analysis):
    """``espnet2.tts.feats_extract.energy.Energy``, before it is averaged."""

    def __init__(self, extract: torch.nn.Module):
        super().__init__(extract, None)
        self.outputs = {"energy_of_frames": Tensor("float32", ("frames",))}

    def features(self, power, lengths):
        return power.sum(dim=2).clamp(min=1e-10).sqrt()


def teacher_forcing(
    model: torch.nn.Module, search: Features
) -> tuple[dict[str, TTSModule], Features]:
    """Graphs of a model's teacher forcing.

    Args:
        model: ``ESPnetTTSModel``.
        search: with the inputs that its ``tts`` reads.

    Returns:
        Graphs by role, and the search with how pitch and energy are made; without
        inputs of teacher forcing where ESPnet cannot do it.
    """
    if "pitch" not in search.teacher_forcing:
        return {}, search
    pitch, energy = model.pitch_extract, model.energy_extract
    if (
        type(pitch).__name__ != "Dio"
        or type(energy).__name__ != "Energy"
        or not pitch.use_token_averaged_f0
        or not energy.use_token_averaged_energy
        or model.feats_extract is None
    ):
        return {}, replace(search, teacher_forcing=())
    return {"energy": EnergyAnalysis(energy)}, replace(
        search,
        pitch=pitch_settings(pitch, model.pitch_normalize),
        energy=Energy(
            reduction_factor=energy.reduction_factor,
            **_statistics(model.energy_normalize),
        ),
    )


def pitch_settings(
    extract: torch.nn.Module, normalize: torch.nn.Module | None
) -> Pitch:
    """How a model's pitch is made.

    Args:
        extract: ESPnet's ``Dio``.
        normalize: ESPnet's ``GlobalMVN`` of one number, or None.
    """
    names = ("fs", "hop_length", "f0min", "f0max", "use_continuous_f0", "use_log_f0")
    settings = {name: getattr(extract, name) for name in names}
    # ``Dio`` has none where no pitch is averaged.
    factor = extract.reduction_factor or 1
    return Pitch(**settings, reduction_factor=factor, **_statistics(normalize))


def _statistics(normalize: torch.nn.Module | None) -> dict[str, float | None]:
    """Mean and deviation in ESPnet's ``GlobalMVN`` of one number."""
    if normalize is None:
        return dict(shift=None, scale=None)
    return dict(
        shift=float(normalize.mean) if normalize.norm_means else None,
        scale=float(normalize.std) if normalize.norm_vars else None,
    )
