"""Measured equality of synthesis with ESPnet's inference, both with the same noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE, Parity, require
from espnet_onnx_plugin.runtime.synthesis.engine import Synthesizer
from espnet_onnx_plugin.runtime.synthesis.inputs import Arguments
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

#: How torch's layers say that they are given fewer frames than they need, or none: a
#: made-up text may be short for a vocoder.
_TOO_SHORT = re.compile(
    r"Padding size should be less than the corresponding input dimension"
    r"|Kernel size can't be greater than actual input size"
    r"|possibly 0 batch size and other non-zero dimensions for input, but got"
    r"|Only zero batch or zero channel inputs are supported, but got"
    r"|Input and output sizes should be greater than 0, but got"
)

#: ESPnet's inference: inputs, options and a seed to outputs by name.
Infer = Callable[[Arguments, Mapping[str, object], int], Mapping[str, torch.Tensor]]


def check_synthesis(
    ours: Synthesizer,
    infer: Infer,
    teacher: Callable[[Arguments], Arguments] | None,
) -> Parity:
    """Compare what the bundle makes with what ESPnet makes, of made-up texts.

    A text is skipped that ESPnet itself makes too few frames of for its vocoder.

    Args:
        ours: the bundle, opened.
        infer: ESPnet's inference.
        teacher: gives made-up speech of a text for teacher forcing; None where ESPnet
            has none.

    Returns:
        The largest relative difference by output.

    Raises:
        PluginError: if one is above the tolerance, ESPnet cannot speak, or every text
            was skipped, with or without teacher forcing.
    """
    figures: dict[str, float] = {}
    skipped: list[str] = []
    texts = list(ours.data.made_up(ours.bundle))
    calls = [(what, inputs, False) for what, inputs in texts]
    if teacher is not None:
        calls += [
            (f"{what} that is taught", {**inputs, **teacher(inputs)}, True)
            for what, inputs in texts
        ]
    compared = {forced: 0 for _, _, forced in calls}
    for number, (what, inputs, forced) in enumerate(calls):
        conf = dict(use_teacher_forcing=forced)
        try:
            reference = infer(inputs, {**ours.espnet_options, **conf}, number)
        except RuntimeError as e:
            reason = " ".join(str(e).split())[:300]
            if not _TOO_SHORT.search(reason):
                raise PluginError(
                    f"parity check failed: ESPnet cannot speak {what}: {reason}"
                )
            skipped.append(f"{what}: ESPnet cannot speak it: {reason}")
            continue
        compared[forced] += 1
        ours.noise = Noise(number, mkl=ours.search.mkl)
        ours.given_f0 = _f0_of(reference)
        made = ours(**inputs, decode_conf=conf)
        ours.given_f0 = None
        if ours.f0 is not None:
            made["f0"] = ours.f0
        for name, figure in compare_outputs(made, reference, what).items():
            figures[name] = max(figures.get(name, 0.0), figure)
    for forced, count in compared.items():
        if not count:
            how = " that is taught" if forced else ""
            raise PluginError(
                f"parity check failed: ESPnet itself cannot speak any made-up text"
                f"{how}: {skipped[-1]}; train the model for longer"
            )
    return Parity(figures, skipped)


def _f0_of(reference: Mapping[str, torch.Tensor]) -> np.ndarray | None:
    """The fundamental frequency that ESPnet made a waveform of, if it is known."""
    return reference["f0"].numpy() if "f0" in reference else None


def compare_outputs(
    made: Mapping[str, np.ndarray], reference: Mapping[str, torch.Tensor], what: str
) -> dict[str, float]:
    """Compare what was made of one text.

    Args:
        made: ours, by name.
        reference: ESPnet's.
        what: describes the text, for the message.

    Returns:
        The relative difference by output.

    Raises:
        PluginError: if one is above the tolerance.
    """
    figures = {}
    for name, value in reference.items():
        if value is None:
            continue
        expected = value.numpy().astype(np.float32)
        if name not in made:
            raise PluginError(f"parity check failed: there is no {name} on {what}")
        if made[name].shape != expected.shape:
            raise PluginError(
                f"parity check failed: {name} has shape {made[name].shape}, PyTorch's "
                f"has {expected.shape} on {what}; nothing was written"
            )
        figure = difference(made[name].astype(np.float32), expected)
        tolerance = WAVEFORM_TOLERANCE if name == "wav" else TOLERANCE
        figures[name] = require(name, what, figure, tolerance)
    return figures
