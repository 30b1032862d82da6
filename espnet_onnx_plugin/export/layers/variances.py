"""What text-to-speech models are taught by besides durations: pitch and energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Energy, Pitch
from espnet_onnx_plugin.export.archs.feats_extract import Analysis
from espnet_onnx_plugin.export.tts_module import TTSModule


class EnergyAnalysis(Analysis):
    """``espnet2.tts.feats_extract.energy.Energy``, before it is averaged."""

    def __init__(self, extract: torch.nn.Module):
        super().__init__(extract, None)
        self.outputs = {"energy_of_frames": Tensor("float32", ("frames",))}

    def features(self, power, lengths):
        return power.sum(dim=2).clamp(min=1e-10).sqrt()


def teaching(
    model: torch.nn.Module, taught_by: Sequence[str]
) -> tuple[dict[str, TTSModule], dict[str, Any]]:
    """What a model is taught by.

    Args:
        model: ``ESPnetTTSModel``.
        taught_by: what its ``tts`` reads: of speech, durations, pitch and energy.

    Returns:
        Graphs by role, and what the manifest says in ``search``: ``taught_by``, empty
        where ESPnet cannot teach the model, and how pitch and energy are made.
    """
    if "pitch" not in taught_by:
        return {}, dict(taught_by=tuple(taught_by))
    pitch, energy = model.pitch_extract, model.energy_extract
    if (
        type(pitch).__name__ != "Dio"
        or type(energy).__name__ != "Energy"
        or not pitch.use_token_averaged_f0
        or not energy.use_token_averaged_energy
        or model.feats_extract is None
    ):
        return {}, dict(taught_by=())
    return {"energy": EnergyAnalysis(energy)}, dict(
        taught_by=tuple(taught_by),
        pitch=Pitch(
            **{
                name: getattr(pitch, name)
                for name in (
                    *("fs", "hop_length", "f0min", "f0max"),
                    *("use_continuous_f0", "use_log_f0", "reduction_factor"),
                )
            },
            **_statistics(model.pitch_normalize),
        ),
        energy=Energy(
            reduction_factor=energy.reduction_factor,
            **_statistics(model.energy_normalize),
        ),
    )


def _statistics(normalize: torch.nn.Module | None) -> dict[str, float | None]:
    """What ESPnet's ``GlobalMVN`` of one number takes away, and divides by."""
    if normalize is None:
        return dict(shift=None, scale=None)
    return dict(
        shift=float(normalize.mean) if normalize.norm_means else None,
        scale=float(normalize.std) if normalize.norm_vars else None,
    )
