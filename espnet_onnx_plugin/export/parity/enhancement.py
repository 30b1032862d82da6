"""Parity of enhancement: what a bundle and ESPnet make of made-up mixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.parity.tolerance import Parity, require
from espnet_onnx_plugin.runtime.enhancement.inputs import LENGTHS, Mixture, made_up
from espnet_onnx_plugin.runtime.enhancement.stft import at_rate

#: Sampling rate of made-up mixtures, which is what ESPnet's class takes them for.
RATE = 8000

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
    for what, mixture, fs in _at_rates(described):
        given = {**mixture.arguments(), "fs": fs}
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


def _at_rates(described: Enhancement) -> Iterator[tuple[str, Mixture, int]]:
    """Made-up mixtures, at several rates where the transform follows them."""
    for what, mixture in made_up(described):
        yield what, mixture, RATE
    analysis = described.analysis
    if analysis is None or analysis.default_fs is None:
        return
    for fs in sorted({11025, 16000, 48000, analysis.default_fs} - {RATE}):
        if (described.max_bins or np.inf) < at_rate(analysis, fs).bins:
            continue
        for what, mixture in made_up(described):
            if len(mixture.speech_mix) >= LENGTHS[1]:
                yield f"{what} at {fs} Hz", mixture, fs
