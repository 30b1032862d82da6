"""``separator: tcn``: Conv-TasNet's temporal convolutions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch_complex.tensor import ComplexTensor

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.enh_stream import SeparatorStep, streamed
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


class _History(SeparatorStep):
    """Causal convolutions that keep the frames they look back to.

    ESPnet's ``forward_streaming`` computes every layer again for all frames that the
    last one sees, of which each layer here computes the new ones.
    """

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.separator = separator
        self.silence = separator.tcn.receptive_field
        self._convolutions = [block.net[3].net[:2] for block in _blocks(separator)]
        self.states = {
            f"history_{i}": State("float32", (1, conv.in_channels, conv.padding[0]))
            for i, (conv, _) in enumerate(self._convolutions)
        }

    def forward(
        self, features: Any, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[Any], Sequence[torch.Tensor]]:
        after: list[torch.Tensor] = []
        with contextlib.ExitStack() as stack:
            for (conv, chomp), history in zip(self._convolutions, states):
                convolve = partial(_convolve, conv, history, after)
                stack.enter_context(replaced(conv, "forward", convolve))
                stack.enter_context(replaced(chomp, "forward", lambda x: x))
            separated, *_ = self.separator(features, None)
        return separated, after


def _blocks(separator: torch.nn.Module) -> list[torch.nn.Module]:
    return [block for stack in separator.tcn.network[2] for block in stack]


def _convolve(
    conv: torch.nn.Conv1d,
    history: torch.Tensor,
    after: list[torch.Tensor],
    x: torch.Tensor,
) -> torch.Tensor:
    """Convolve new frames (1, channels, frames); the next history goes to ``after``."""
    seen = torch.cat((history, x), dim=2)
    after.append(seen[:, :, x.size(2) :])
    return torch.nn.functional.conv1d(
        seen, conv.weight, dilation=conv.dilation, groups=conv.groups
    )


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
        return streamed(whole, _History(separator))
    return streamed(whole, _Window(separator, ends.analysis is not None))


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
