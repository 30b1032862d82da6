"""Measured equality of frontend and encoder graph and ESPnet's ``encode``.

The graphs run on lengths unlike the traced one. PyTorch gets one utterance at a time,
as in ESPnet's inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.tolerance import (
    NOISE_FACTOR,
    TOLERANCE,
    moved_by_a_digit,
    require,
)
from espnet_onnx_plugin.runtime.core.encoder import (
    INTERCTC,
    LENS,
    Accompanied,
    Encoder,
    Utterance,
)
from espnet_onnx_plugin.runtime.core.values import to_numpy

#: One utterance to the encoder graph's outputs by name.
Encode = Callable[[Utterance], dict[str, np.ndarray]]


#: Lengths of noise relative to the shortest one that the encoder takes.
LENGTHS = (1.0, 5.3, 9.7, 7.1, 31.4)


def check_encoder(
    encode: Encode,
    encoder: Encoder,
    utterances: Iterable[tuple[str, Utterance]],
) -> float:
    """Compare frontend and encoder graph with ESPnet's encoding.

    Args:
        encode: gives the graph's outputs for one utterance, from ESPnet's own modules.
        encoder: the graphs.
        utterances: (description, utterance).

    Returns:
        The largest relative difference of any output.

    Raises:
        PluginError: if one is above the tolerance, and above PyTorch's own rounding, or
            there is no utterance.
    """
    worst = None
    for what, utterance in utterances:
        reference = encode(utterance)
        rounding: dict[str, float] = {}
        ours = encoder([utterance])
        if not np.array_equal(ours.lengths, reference["encoder_out_lens"]):
            require("encoder_out_lens", what, float("inf"))
        for name, value in reference.items():
            figure = difference(to_numpy(ours[name]), value)
            if figure > TOLERANCE and not rounding:
                rounding = rounding_noise(encode, utterance, reference)
            # A model that gives no numbers is as far from itself as any graph.
            allowed = NOISE_FACTOR * rounding.get(name, 0.0)
            if figure > allowed or not math.isfinite(allowed):
                require(f"encoder ({name})", what, figure)
            worst = max(worst or 0.0, figure)
    if worst is None:
        raise PluginError("parity check failed: no utterance to compare the encoder on")
    return worst


def encodes_batches(encoder: Encoder, utterances: Sequence[Utterance]) -> bool:
    """Whether utterances of unequal lengths get the same results together as alone."""
    feats = encoder.features(utterances)
    together = encoder.encode_together(feats)
    for i, one in enumerate(feats):
        alone = encoder.encode_together([one])
        rows = alone.utterances  # one, or one for each speaker
        ours = together.select(range(i * rows, (i + 1) * rows))
        if not all(
            difference(to_numpy(ours[name]), to_numpy(value)) <= TOLERANCE
            for name, value in alone.items()
        ):
            return False
    return True


def rounding_noise(
    encode: Encode, utterance: Utterance, reference: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """How far PyTorch moves from itself when its input moves by a float's last digit.

    The logarithm of an almost empty Mel band magnifies the rounding of the Fourier
    transform, in PyTorch as much as here; no graph can be nearer to PyTorch than that.

    Returns:
        The relative difference by output.
    """
    alone = not isinstance(utterance, Accompanied)
    speech = utterance if alone else utterance.speech
    moved = moved_by_a_digit(speech)
    other = encode(moved if alone else replace(utterance, speech=moved))
    return {name: difference(other[name], value) for name, value in reference.items()}


def noise(speech: Speech) -> Iterator[tuple[str, np.ndarray]]:
    """Utterances of noise with descriptions, in :data:`LENGTHS`."""
    random = np.random.default_rng(0)
    for factor in LENGTHS:
        shape = [int(speech.min_length * factor)]
        shape += [speech.feature_dim] if speech.feature_dim else []
        array = random.standard_normal(shape).astype(np.float32) * np.float32(0.1)
        yield f"noise of length {len(array)}", array


def encode_reference(
    model: torch.nn.Module, speech: np.ndarray, **others: torch.Tensor
) -> dict[str, np.ndarray]:
    """The encoder graph's outputs for one utterance, from ESPnet's own ``encode``.

    Args:
        model: ESPnet's model.
        speech: (samples,) or (frames, dim).
        others: what else its ``encode`` takes.
    """
    lengths = torch.tensor([len(speech)])
    with torch.no_grad():
        # A copy: ESPnet normalizes features in place.
        out, _ = model.encode(
            speech=torch.from_numpy(speech.copy())[None],
            speech_lengths=lengths,
            **others,
        )
        out, intermediate = out if isinstance(out, tuple) else (out, [])
        # ESPnet's search takes every frame, whatever the length that the encoder says.
        out_lengths = torch.tensor([out.size(-2)])
        if out.dim() == 4:  # several speakers, each a row
            out = out[0]
            out_lengths = out_lengths.expand(len(out))
        results = {"encoder_out": out, "encoder_out_lens": out_lengths}
        if model.ctc is not None:
            results["ctc_log_probs"] = model.ctc.log_softmax(out)
        for layer, value in intermediate:
            results[f"{INTERCTC}{layer}"] = model.ctc.log_softmax(value)
            if getattr(model.encoder, "ctc_trim", False):
                lengths = torch.tensor([value.size(1)])
                results[f"{INTERCTC}{layer}{LENS}"] = lengths
    return {name: value.numpy() for name, value in results.items()}


def frame_shift(encoder: Encoder, speech: Speech, frames: int = 4) -> float | None:
    """How much longer an input is for one more frame of the encoder's output.

    Args:
        encoder: whose lengths are measured.
        speech: what its input has to be.
        frames: how many frames it is measured over.

    Returns:
        Samples or frames of the input; None where a longer input gives no more frames.
    """

    def encoded(length: int) -> int:
        shape = [length, speech.feature_dim] if speech.feature_dim else [length]
        return int(encoder([np.zeros(shape, np.float32)]).lengths[0])

    def shortest(wanted: int, low: int) -> int | None:
        high = 2 * low
        while encoded(high) < wanted:
            low, high = high, 2 * high
            if high > 64 * first:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if encoded(middle) >= wanted else (middle, high)
        return high

    first = 8 * speech.min_length
    known = encoded(first)
    start, end = shortest(known + 1, first), shortest(known + 1 + frames, first)
    return None if start is None or end is None else (end - start) / frames
