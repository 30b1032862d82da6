"""Layers of separators, over sequences that lie as recurrent operators want them.

Everywhere x is (time, sequences, dim), where ESPnet has (sequences, time, dim) or
(sequences, dim, time): nothing is transposed between a layer and the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import layer_norm, linear
from torch_complex.tensor import ComplexTensor

from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.patches import replaced


def magnitude(features: Any) -> torch.Tensor:
    """Features that ESPnet's networks read: of a spectrum its magnitude."""
    return abs(features) if isinstance(features, ComplexTensor) else features


def pointwise(convolution: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A convolution with kernel 1 over the last axis."""
    return linear(x, convolution.weight.flatten(1), convolution.bias)


class MaskSeparator(torch.nn.Module):
    """A separator that multiplies its input by masks, of one mixture.

    Args:
        separator: ESPnet's; the mask of its ``predict_noise`` is left out.
    """

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.num_spk = separator.num_spk
        self.nonlinear = separator.nonlinear

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks (frames, dim) of speakers and noise, before the nonlinearity.

        Args:
            x: features (frames, dim).
        """
        raise NotImplementedError

    def forward(self, features: Any, lengths: torch.Tensor) -> tuple[list[Any]]:
        """Features (1, frames, dim) of each speaker, as of ESPnet's separator."""
        return (self.masked(features, self.masks(magnitude(features)[0])),)

    def masked(self, features: Any, masks: Sequence[torch.Tensor]) -> list[Any]:
        """Features of each speaker, of the masks before the nonlinearity."""
        return [features * self.nonlinear(mask) for mask in masks[: self.num_spk]]


class Stack(torch.nn.Module):
    """ESPnet's ``RNN``: recurrent layers and a projection through tanh."""

    def __init__(self, rnn: torch.nn.Module):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            RecurrentLayer(rnn.nbrnn, i) for i in range(rnn.nbrnn.num_layers)
        )
        self.projection = rnn.l_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over one sequence (time, dim)."""
        return self.run(x)[0]

    def run(
        self, x: torch.Tensor, states: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run over one sequence from a state on.

        Args:
            x: (time, dim).
            states: of all layers, see :meth:`.RecurrentLayer.sequences`.

        Returns:
            (time, size), and the states after it.
        """
        x, after = x[:, None], []
        each = len(states) // len(self.layers)
        for i, layer in enumerate(self.layers):
            x, *new = layer.sequences(x, states[i * each : (i + 1) * each])
            after += new
        return torch.tanh(self.projection(x[:, 0])), after


class Projected(torch.nn.Module):
    """``espnet2.enh.layers.dprnn.SingleRNN``: a layer and a projection."""

    def __init__(self, rnn: torch.nn.Module):
        super().__init__()
        self.layer = RecurrentLayer(rnn.rnn)
        self.projection = rnn.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over sequences."""
        return self.run(x)[0]

    def run(
        self, x: torch.Tensor, states: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Run over sequences, see :meth:`.RecurrentLayer.sequences`."""
        y, *after = self.layer.sequences(x, states)
        return self.projection(y), after


def _global_norm(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    swapped = getattr(self, "shape", "BDT") == "BTD"
    if swapped:
        x = x.transpose(1, 2)
    # Over one axis, then the other: see Norm.
    x = x - x.mean(2, keepdim=True).mean(1, keepdim=True)
    variance = (x * x).mean(2, keepdim=True).mean(1, keepdim=True)
    eps = torch.finfo(torch.float32).eps
    x = x * (self.gamma / torch.sqrt(variance + eps)) + self.beta
    return x.transpose(1, 2) if swapped else x


@contextlib.contextmanager
def global_norms() -> Iterator[None]:
    """Patch ESPnet's ``GlobalLayerNorm``, for the time of a block.

    It scales in two passes over the input, and squares by a power, which onnxruntime
    takes twice as long for as for a product: of a Conv-TasNet's time they are a tenth.
    """
    from espnet2.diar.layers.tcn_nomask import GlobalLayerNorm as OfDiarization
    from espnet2.enh.layers.tcn import GlobalLayerNorm

    with contextlib.ExitStack() as stack:
        for norm in (GlobalLayerNorm, OfDiarization):
            stack.enter_context(replaced(norm, "forward", _global_norm))
        yield


class Norm(torch.nn.Module):
    """A norm that ``espnet2.enh.layers.tcn.choose_norm`` makes, of each sequence.

    Args:
        norm: ESPnet's gLN or cLN, torch's BatchNorm1d, or GroupNorm of one group.
    """

    def __init__(self, norm: torch.nn.Module):
        super().__init__()
        self.channelwise = type(norm).__name__ == "ChannelwiseLayerNorm"
        # ESPnet's own norms: tcn.EPS.
        self.eps = getattr(norm, "eps", torch.finfo(torch.float32).eps)
        if hasattr(norm, "gamma"):
            scale, shift = norm.gamma, norm.beta
        else:
            scale, shift = norm.weight, norm.bias
        self.running = hasattr(norm, "running_mean")
        if self.running:
            scale = scale / torch.sqrt(norm.running_var + self.eps)
            shift = shift - norm.running_mean * scale
        self.register_buffer("scale", scale.detach().flatten())
        self.register_buffer("shift", shift.detach().flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (time, sequences, dim)."""
        if self.running:
            return x * self.scale + self.shift
        if self.channelwise:
            return layer_norm(x, x.shape[2:], self.scale, self.shift, self.eps)
        # Over one axis, then the other: onnxruntime sums long rows one after the other.
        x = x - x.mean(2, keepdim=True).mean(0, keepdim=True)
        variance = (x * x).mean(2, keepdim=True).mean(0, keepdim=True)
        return x * (self.scale / torch.sqrt(variance + self.eps)) + self.shift

    def of_all(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize all sequences as if they were one."""
        return self(x.flatten(0, 1)[:, None]).view(x.shape)


class AttentionMasks(MaskSeparator):
    """Masks of ESPnet's transformer or conformer.

    Nothing of one mixture is padding: no mask of attention stands in the graph.

    Args:
        separator: ESPnet's.
        encoder: its encoder.
    """

    def __init__(self, separator: torch.nn.Module, encoder: torch.nn.Module):
        super().__init__(separator)
        self.encoder, self.linear = encoder, separator.linear

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks of features (frames, dim), see :class:`.MaskSeparator`."""
        x, _ = self.encoder(x[None], None)
        return [linear(x[0]) for linear in self.linear]
