"""Parity of enhancement: what a bundle and ESPnet make of made-up mixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        for ours, theirs in zip(separate(**given), expected, strict=True):
            figure = difference(ours, theirs)
            worst = max(worst, require("separator", what, figure, WAVEFORM_TOLERANCE))
    return Parity({"waveforms": worst}, skipped)
