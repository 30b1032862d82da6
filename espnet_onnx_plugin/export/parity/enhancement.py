"""Parity of enhancement: what a bundle and ESPnet make of made-up mixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.parity.tolerance import Parity, require

#: Lengths of made-up mixtures in samples, none of them the traced one.
LENGTHS = (3001, 9000, 16384)

#: Waveforms (utterances, samples) of each output, of (utterances, samples[, channels]).
Separate = Callable[[np.ndarray], Sequence[np.ndarray]]


def made_up(described: Enhancement) -> Iterator[tuple[str, np.ndarray]]:
    """Mixtures (1, samples[, channels]) that the model takes, and words for them.

    Noise whose loudness comes and goes, the more alike in two channels the nearer
    these are.
    """
    channels = described.channels or 3
    shortest = max(described.min_length, 2)
    for number, length in enumerate((shortest, *LENGTHS)):
        random = np.random.default_rng(number)
        source = random.standard_normal(length + channels)
        loudness = 0.1 + np.sin(np.arange(length) / 700) ** 2
        rows = [source[i : i + length] for i in range(channels)]
        mix = np.stack(rows, axis=-1) * loudness[:, None]
        mix = 0.1 * (mix + 0.1 * random.standard_normal(mix.shape))
        if described.channels == 1:
            mix = mix[:, 0]
        yield f"a mixture of {length} samples", mix[None].astype(np.float32)


def check_enhancement(
    described: Enhancement, separate: Separate, espnet: Separate
) -> Parity:
    """Compare what the bundle makes with what ESPnet makes, of made-up mixtures.

    Raises:
        PluginError: if a difference is above the tolerance, or ESPnet itself cannot
            take one of the longer mixtures.
    """
    worst, skipped = 0.0, []
    for what, mix in made_up(described):
        try:
            expected = espnet(mix)
        except (RuntimeError, AssertionError, IndexError, ValueError) as e:
            reason = " ".join(str(e).split())[:200]
            if mix.shape[1] >= LENGTHS[0]:
                raise PluginError(
                    f"parity check failed: ESPnet cannot take {what}: {reason}"
                )
            skipped.append(f"{what}: ESPnet cannot take it: {reason}")
            continue
        made = separate(mix)
        figure = _furthest(made, expected)
        if figure > WAVEFORM_TOLERANCE and mix.shape[1] < LENGTHS[0]:
            shaken = _furthest(espnet(mix * (1 + np.float32(1e-6))), expected)
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
