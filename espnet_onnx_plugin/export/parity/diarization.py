"""Parity of diarization: logits of speakers, and what is separated by their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.parity.tolerance import (
    NOISE_FACTOR,
    TOLERANCE,
    moved_by_a_digit,
    require,
)
from espnet_onnx_plugin.export.patches import small_masks
from espnet_onnx_plugin.runtime.diarization.diarizer import MOST


def joined(active: np.ndarray, exist: np.ndarray | None) -> list[np.ndarray]:
    """Logits that speakers are active, of all that can be counted, and that there are
    such; each is compared by its own scale.
    """
    return [active] if exist is None else [active[:, :MOST], exist]


@torch.no_grad()
def espnet_logits(espnet: object, speech: np.ndarray) -> list[np.ndarray]:
    """Logits of ESPnet's ``DiarizeSpeech``, see :func:`joined`.

    Args:
        espnet: with its ``num_spk`` as its decoder has it, or None.
        speech: (samples,) or (frames, dim).
    """
    x = torch.from_numpy(speech.copy())[None]  # ESPnet normalizes in place
    with small_masks():
        encoder_out, lengths = espnet.encode(x, torch.tensor([len(speech)]))
    model = espnet.diar_model
    if model.attractor is None:
        return joined(model.decoder(encoder_out, lengths)[0].numpy(), None)
    zeros = torch.zeros(1, MOST + 1, encoder_out.size(2))
    attractors, exist = model.attractor(encoder_out, lengths, zeros)
    active = torch.bmm(encoder_out, attractors.transpose(1, 2))
    return joined(active[0].numpy(), exist[0, :, 0].numpy())


def check_logits(
    ours: Callable[[np.ndarray], list[np.ndarray]],
    theirs: Callable[[np.ndarray], list[np.ndarray]],
    recordings: Iterable[tuple[str, np.ndarray]],
) -> float:
    """Compare logits with ESPnet's.

    Args:
        ours, theirs: logits of a recording.
        recordings: (description, recording).

    Returns:
        The largest relative difference.

    Raises:
        PluginError: if one is above the tolerance, and above PyTorch's own rounding.
    """
    worst = 0.0
    for what, speech in recordings:
        expected = theirs(speech)
        figure = _furthest(ours(speech), expected)
        allowed = TOLERANCE
        if figure > TOLERANCE:
            rounding = _furthest(theirs(moved_by_a_digit(speech)), expected)
            if np.isfinite(rounding):
                allowed = max(TOLERANCE, NOISE_FACTOR * rounding)
        worst = max(worst, require("diarization", what, figure, allowed))
    return worst


def check_separation(
    separate: Callable[[np.ndarray, int], np.ndarray],
    espnet: object,
    most: int,
    mixtures: Iterable[tuple[str, np.ndarray]],
) -> float:
    """Compare waveforms with ESPnet's, of every number of speakers.

    Args:
        separate: makes (speakers, samples) of a mixture, for a number of speakers.
        espnet: ESPnet's ``DiarizeSpeech``.
        most: the most speakers.
        mixtures: (description, samples).

    Returns:
        The largest relative difference.

    Raises:
        PluginError: if one is above the tolerance.
    """
    worst = 0.0
    for what, mix in mixtures:
        for number in range(1, most + 1):
            with torch.no_grad(), small_masks():
                x, lengths = torch.from_numpy(mix.copy())[None], torch.tensor(
                    [len(mix)]
                )
                *_, waves = espnet.diar_model.encode_diar(x, lengths, number)
                expected = torch.cat(list(waves)).numpy()
            figure = difference(separate(mix, number), expected)
            what_for = f"{what} of {number} speakers"
            figure = require("masks", what_for, figure, WAVEFORM_TOLERANCE)
            worst = max(worst, figure)
    return worst


def _furthest(made: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(difference(*pair) for pair in zip(made, expected, strict=True))
