"""``separator: tcn``: Conv-TasNet's temporal convolutions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch_complex.tensor import ComplexTensor

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.enh_stream import MaskStep, SeparatorStep, streamed
from espnet_onnx_plugin.export.layers.separation import Norm, pointwise
from espnet_onnx_plugin.export.registry import Arch, register


class _Block(torch.nn.Module):
    """``espnet2.enh.layers.tcn.TemporalBlock``, causal, over (time, 1, channels).

    Its depthwise convolution is the sum of a few products of rows: no axis changes its
    place, where a block of ESPnet's has (channels, time).
    """

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.inner, self.activation, norm, depthwise = block.net
        convolution, _, self.activation_2, norm_2, self.outer = depthwise.net
        self.norm, self.norm_2 = Norm(norm), Norm(norm_2)
        [self.dilation] = convolution.dilation
        #: Of each tap (channels,).
        self.register_buffer("taps", convolution.weight[:, 0].T.contiguous())

    @property
    def state(self) -> State:
        """Frames that the convolution looks back to."""
        taps, channels = self.taps.shape
        return State("float32", ((taps - 1) * self.dilation, 1, channels))

    def forward(
        self, x: torch.Tensor, history: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next frames and the history -> the frames, and the next history."""
        frames = x.size(0)
        y = self.norm(self.activation(pointwise(self.inner, x)))
        seen = torch.cat((history, y))
        places = range(0, len(self.taps) * self.dilation, self.dilation)
        y = sum(tap * seen[i : i + frames] for tap, i in zip(self.taps, places))
        y = self.norm_2(self.activation_2(y))
        return x + pointwise(self.outer, y), seen[frames:]


class _Causal(torch.nn.Module):
    """The separator whose layers keep the frames they look back to.

    ESPnet's ``forward_streaming`` computes every layer again for all frames that the
    last one sees, of which each layer here computes the new ones.
    """

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        tcn = separator.tcn
        norm, self.bottleneck, _, *activation, self.output = tcn.network
        self.activation = torch.nn.Sequential(*activation)
        self.norm = Norm(norm)
        self.blocks = torch.nn.ModuleList(map(_Block, _blocks(separator)))
        self.num_spk, self.masking = separator.num_spk, separator.masking
        self.outputs, self.nonlinear = tcn.C, tcn.mask_nonlinear

    def step(
        self, x: torch.Tensor, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Masks of the next frames; see :class:`.Masks`."""
        x = pointwise(self.bottleneck, self.norm(x[:, None]))
        after = []
        for block, history in zip(self.blocks, states):
            x, new = block(x, history)
            after.append(new)
        x = self.activation(x[:, 0])
        masks = pointwise(self.output, x).unflatten(1, (self.outputs, -1))
        return masks.unbind(1), after

    def masked(self, features: Any, masks: Sequence[torch.Tensor]) -> list[Any]:
        """Features of each speaker; see :class:`.Masks`."""
        made = list(masks[: self.num_spk])
        if self.nonlinear != "linear":
            made = [getattr(torch, self.nonlinear)(mask) for mask in made]
        return [features * m if self.masking else m[None] for m in made]


def _blocks(separator: torch.nn.Module) -> list[torch.nn.Module]:
    return [block for stack in separator.tcn.network[2] for block in stack]


class _Window(SeparatorStep):
    """Convolutions with normalizations of all frames that the last one sees together.

    Everything is computed again for each frame, as in ESPnet.
    """

    exact = False
    segment = 4  # or the hidden frames of a run take too much memory

    def __init__(self, separator: torch.nn.Module, is_complex: bool):
        super().__init__()
        self.separator = separator
        before = separator.tcn.receptive_field - 1
        size = separator.tcn.network[0].gamma.size(1)
        axes = (1, before, size, 2) if is_complex else (1, before, size)
        self.states = {"window": State("float32", axes)}

    def forward(
        self, features: Any, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[Any], Sequence[torch.Tensor]]:
        is_complex = isinstance(features, ComplexTensor)
        if is_complex:
            features = torch.stack((features.real, features.imag), dim=-1)
        frames = features.size(1)
        [before] = states
        seen = torch.cat((before, features), dim=1)
        places = torch.arange(frames)[:, None] + torch.arange(before.size(1) + 1)
        windows = seen[0][places]
        if is_complex:
            windows = ComplexTensor(windows[..., 0], windows[..., 1])
        separated, *_ = self.separator(windows, None)
        return [each[:, -1][None] for each in separated], [seen[:, frames:]]


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The separator, with a step where it is causal."""
    from espnet2.enh.layers.tcn import ChannelwiseLayerNorm, Chomp1d

    whole = direct(separator, ends)
    depthwise = _blocks(separator)[0].net[3]
    if not isinstance(depthwise.net[1], Chomp1d):
        return whole
    if isinstance(depthwise.net[3], (ChannelwiseLayerNorm, torch.nn.BatchNorm1d)):
        causal = _Causal(separator)
        states = {f"history_{i}": b.state for i, b in enumerate(causal.blocks)}
        silence = separator.tcn.receptive_field
        return streamed(whole, MaskStep(causal, states, silence=silence))
    is_complex = ends.analysis is not None
    if is_complex and not _streams_spectra(separator):
        return whole
    return streamed(whole, _Window(separator, is_complex))


def _streams_spectra(separator: torch.nn.Module) -> bool:
    """Whether ESPnet itself does: that of 202511 forgets the imaginary parts."""
    size = separator.tcn.network[0].gamma.size(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        frame = torch.zeros(1, 1, size, dtype=torch.complex64)
        [made, *_], *_ = separator.forward_streaming(frame)
    return made.is_complex()


_SMALL = dict(layer=2, stack=2, bottleneck_dim=6, hidden_dim=10, kernel=3)
_CAUSAL = dict(_SMALL, causal=True)

register(
    Arch(
        role="separator",
        name="tcn",
        wrap=wrap,
        tiny={
            "global": dict(_SMALL),
            "spectrum": dict(_SMALL, ends="stft"),
            "causal": dict(_CAUSAL, norm_type="cLN", nonlinear="sigmoid"),
            "causal_spectrum": dict(
                _CAUSAL, norm_type="BN", ends="stft", predict_noise=True, num_spk=1
            ),
            "causal_global": dict(_CAUSAL, norm_type="gLN"),
            "causal_global_spectrum": dict(_CAUSAL, norm_type="gLN", ends="stft"),
            "causal_mapping": dict(
                _CAUSAL,
                norm_type="cLN",
                nonlinear="linear",
                masking=False,
                pre_mask_nonlinear="linear",
            ),
            "mapping": dict(
                _SMALL, num_spk=1, norm_type="BN", nonlinear="linear", masking=False
            ),
            "noise": dict(
                _SMALL,
                predict_noise=True,
                nonlinear="tanh",
                pre_mask_nonlinear="linear",
            ),
        },
    )
)
