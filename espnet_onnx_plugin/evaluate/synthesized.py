"""Synthesized speech held against fp32's with the same noise: synthesis's budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from espnet_onnx_plugin.evaluate.budgets import SpeechBudget
from espnet_onnx_plugin.evaluate.evaluator import Quality
from espnet_onnx_plugin.evaluate.speech_quality import (
    MEL_CEPSTRA,
    WINDOW,
    Measures,
    measure,
)
from espnet_onnx_plugin.packages import import_package

#: Measures of a waveform that is no speech any more.
LOST = Measures(math.inf, math.inf)


@dataclass(frozen=True)
class SpeechQuality(Quality[SpeechBudget]):
    """Synthesized speech in figures; None where nothing could be measured."""

    mcd: float | None = None
    log_f0_rmse: float | None = None
    cer_fp32: float | None = None
    cer: float | None = None

    @property
    def measured(self) -> bool:
        """Whether there is a figure that a budget limits."""
        return any(f is not None for f in (self.mcd, self.log_f0_rmse, self.cer))

    def within(self, budget: SpeechBudget) -> bool:
        """Whether a budget holds."""
        increase = (self.cer or 0.0) - (self.cer_fp32 or 0.0)
        return (
            (self.mcd or 0.0) <= budget.max_mcd
            and (self.log_f0_rmse or 0.0) <= budget.max_log_f0_rmse
            # An allowance of 0.5 is not exceeded by 0.5, whatever the rounding.
            and increase <= budget.max_cer_increase + 1e-9
        )

    def __str__(self) -> str:
        figures = {
            "MCD": (self.mcd, " dB"),
            "log-F0 RMSE": (self.log_f0_rmse, ""),
            "CER of fp32": (self.cer_fp32, " %"),
            "CER": (self.cer, " %"),
        }
        known = [f"{n} {v:.3f}{u}" for n, (v, u) in figures.items() if v is not None]
        return ", ".join(known) or "nothing that could be measured"


def measure_or_lost(reference: np.ndarray, other: np.ndarray, rate: int) -> Measures:
    """Measure a waveform; at the next higher rate where its own is not defined.

    A waveform that is lost, or its voice, is infinitely far, where a comparison with
    recordings leaves it out.
    """
    if not np.isfinite(other).all():
        return LOST
    if rate not in MEL_CEPSTRA:
        higher = min((r for r in MEL_CEPSTRA if r > rate), default=max(MEL_CEPSTRA))
        soxr = import_package("soxr", f"measures of speech at {rate} Hz", "soxr")
        waves = [soxr.resample(wave, rate, higher) for wave in (reference, other)]
        return measure_or_lost(*waves, higher)
    if (len(other) < WINDOW) != (len(reference) < WINDOW):
        return LOST
    measures = measure(reference, other, rate)
    if measures.log_f0_rmse is None and _is_voiced(reference, rate):
        return replace(measures, log_f0_rmse=math.inf)
    return measures


def _is_voiced(wave: np.ndarray, rate: int) -> bool:
    return measure(wave, wave, rate).log_f0_rmse is not None
