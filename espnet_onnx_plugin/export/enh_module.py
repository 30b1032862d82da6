"""Graphs of enhancement models, of one mixture: there is no axis of a batch.

An architecture of role ``separator`` wraps ESPnet's module between the two ends of the
model, :class:`Ends`, and says by which method the runtime runs its graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch_complex.tensor import ComplexTensor

from espnet_onnx_plugin.bundle import Axis, Stft, Tensor
from espnet_onnx_plugin.bundle.enhancement import (
    Direct,
    Enrollment,
    FrameStream,
    Method,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.separation import global_norms


def stft_of(part: torch.nn.Module, follows_rate: bool = False) -> Stft:
    """Settings of ESPnet's ``STFTEncoder`` or ``STFTDecoder``.

    Args:
        part: the encoder or decoder.
        follows_rate: whether ESPnet gives it the sampling rate of the input.
    """
    stft = part.stft
    kind = part.spec_transform_type if part.spec_transform_type != "none" else None
    return Stft(
        n_fft=stft.n_fft,
        hop_length=stft.hop_length,
        win_length=stft.win_length or stft.n_fft,
        window=stft.window,
        center=stft.center,
        normalized=stft.normalized,
        onesided=stft.onesided,
        transform=kind,
        factor=float(part.spec_factor) if kind else 1.0,
        exponent=float(part.spec_abs_exponent) if kind == "exponent" else 1.0,
        default_fs=part.default_fs if follows_rate else None,
    )


class Ends(torch.nn.Module):
    """Before and behind a separator: ``encoder`` and ``decoder``.

    A Fourier transform is the runtime's; any other encoder or decoder becomes part of
    the separator's graph.

    Args:
        encoder, decoder: ESPnet's; None stands for none, as ``same`` does.
        follows_rate: see :func:`stft_of`.

    Attributes:
        analysis, synthesis: see :class:`~espnet_onnx_plugin.bundle.Enhancement`.
    """

    def __init__(
        self,
        encoder: torch.nn.Module | None,
        decoder: torch.nn.Module | None,
        follows_rate: bool = False,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.analysis = self.synthesis = None
        if hasattr(encoder, "stft"):
            self.analysis = stft_of(encoder, follows_rate)
        if hasattr(decoder, "stft"):
            self.synthesis = stft_of(decoder, follows_rate)

    @property
    def min_length(self) -> int:
        """The fewest samples that the encoder makes a frame of."""
        if self.analysis is not None:
            return self.analysis.shortest
        return getattr(self.encoder, "kernel_size", 1)

    def inputs(self, channels: int | None) -> dict[str, Tensor]:
        """The graph's input: of one channel without an axis of channels."""
        several = (
            () if channels == 1 else ("channels" if channels is None else channels,)
        )
        if self.analysis is None:
            return {"speech": Tensor("float32", ("samples", *several))}
        bins = "bins" if self.analysis.default_fs else self.analysis.bins
        return {"spectrum": Tensor("float32", ("frames", *several, bins, 2))}

    def outputs(self, number: Axis) -> dict[str, Tensor]:
        """The graph's output."""
        if self.synthesis is None:
            return {"waveforms": Tensor("float32", (number, "samples"))}
        bins = "bins" if self.synthesis.default_fs else self.synthesis.bins
        return {"spectra": Tensor("float32", (number, "frames", bins, 2))}

    def features(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """ESPnet's features (1, frames, ...) of the graph's input, and their number."""
        if self.analysis is not None:
            spectrum = ComplexTensor(x[..., 0], x[..., 1])[None]
            return spectrum, torch.full((1,), x.size(0))
        samples = torch.full((1,), x.size(0))
        if self.encoder is None:
            return x[None], samples
        return self.encoder(x[None], samples)

    def estimates(self, features: Sequence[Any], x: torch.Tensor) -> torch.Tensor:
        """The graph's output of what ESPnet's separator gives.

        Args:
            features: of each speaker (1, frames, ...).
            x: the graph's input.
        """
        if self.synthesis is not None:
            return torch.cat([torch.stack((f.real, f.imag), dim=-1) for f in features])
        if self.decoder is None:
            return torch.cat(list(features))
        if not hasattr(self.decoder, "convtrans1d"):
            return torch.cat([self.decoder(f, None)[0] for f in features])
        waves = self.decoder.convtrans1d(torch.cat(list(features)).transpose(1, 2))
        # ConvDecoder asks for the output's size, which adds zeros at the end.
        return torch.nn.functional.pad(waves[:, 0], (0, x.size(0) - waves.size(2)))


class EnhModule(GraphModule):
    """ESPnet's separator between its ends, as one graph.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
        channels: how many it takes; 1: no axis of channels, None: any number.
    """

    sizes = dict(samples=2111, frames=53, channels=3)

    def __init__(
        self, separator: torch.nn.Module, ends: Ends, channels: int | None = 1
    ):
        super().__init__()
        self.separator, self.ends = separator, ends
        self.inputs = ends.inputs(channels)
        self.outputs = ends.outputs(separator.num_spk)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features, lengths = self.ends.features(x)
        with global_norms():
            separated, *_ = self.separator(features, lengths)
        return self.ends.estimates(separated, x)


@dataclass(frozen=True)
class EnhModules:
    """A model of ESPnet's enhancement as graphs.

    Attributes:
        modules: by role: separator, and what its method needs besides.
        ends: what the runtime has to do around them.
        channels: how many a mixture must have; None: any number.
        method: how the runtime runs them.
        min_length: the fewest samples that the model can take, where the encoder can
            take fewer.
        stream: how they work through a stream; None: they cannot.
        averages, modes, max_bins, enrollment: see
            :class:`~espnet_onnx_plugin.bundle.Enhancement`.
    """

    modules: Mapping[str, GraphModule]
    ends: Ends
    channels: int | None = 1
    method: Method = Direct()
    min_length: int = 1
    stream: FrameStream | None = None
    averages: bool = False
    modes: int | None = None
    max_bins: int | None = None
    enrollment: Enrollment | None = None


def spectral(ends: Ends) -> Ends:
    """The ends of a separator of spectra, as they come.

    Raises:
        PluginError: if they are not transforms.
    """
    if ends.analysis is None or ends.synthesis is None:
        raise PluginError(
            "this separator reads spectra: encoder and decoder have to be 'stft'"
        )
    return ends


def direct(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The ``wrap`` of a separator of one channel that is traced as it stands."""
    if separator.num_spk < 1:
        raise PluginError("a separator without outputs cannot be exported")
    return EnhModules({"separator": EnhModule(separator, ends)}, ends)
