"""Parity of enhancement: what a bundle and ESPnet make of made-up mixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.parity.tolerance import Parity, require
from espnet_onnx_plugin.runtime.enhancement.inputs import LENGTHS, made_up

#: Waveforms (utterances, samples) of each output, of arguments of ESPnet's class.
Separate = Callable[..., Sequence[Any]]


def check_enhancement(
    described: Enhancement, separate: Separate, espnet: Separate
) -> Parity:
    """Compare what the bundle makes with what ESPnet makes, of made-up mixtures.

    Raises:
        PluginError: if a difference is above the tolerance, or ESPnet itself cannot
            take one of the longer mixtures.
    """
    worst, skipped = 0.0, []
    for what, mixture in made_up(described):
        given = mixture.arguments()
        try:
            expected = [np.asarray(wave) for wave in espnet(**given)]
        except (RuntimeError, AssertionError, IndexError, ValueError) as e:
            reason = " ".join(str(e).split())[:200]
            if len(mixture.speech_mix) >= LENGTHS[0]:
                raise PluginError(
                    f"parity check failed: ESPnet cannot take {what}: {reason}"
                )
            skipped.append(f"{what}: ESPnet cannot take it: {reason}")
            continue
        figure = _furthest(separate(**given), expected)
        if figure > WAVEFORM_TOLERANCE and len(mixture.speech_mix) < LENGTHS[0]:
            louder = mixture.speech_mix * np.float32(1 + 1e-6)
            again = espnet(**replace(mixture, speech_mix=louder).arguments())
            shaken = _furthest([np.asarray(wave) for wave in again], expected)
            if shaken > WAVEFORM_TOLERANCE:  # filters of fewer frames than unknowns
                skipped.append(
                    f"{what}: ESPnet's own result changes by {shaken:.0e} of its scale "
                    "when the mixture is 1e-6 louder"
                )
                continue
        worst = max(worst, require("separator", what, figure, WAVEFORM_TOLERANCE))
    return Parity({"waveforms": worst}, skipped)


def _furthest(made: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of an output."""
    return max(difference(*pair) for pair in zip(made, expected, strict=True))
