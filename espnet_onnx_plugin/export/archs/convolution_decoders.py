"""``decoder: lightweight_conv``, ``lightweight_conv2d``, ``dynamic_conv`` and
``dynamic_conv2d``.

ESPnet's convolutions take the query of an attention and leave its keys and values
alone. In inference the query is the newest token, so that what is convolved over time
is this one token between zeros: of a past they see nothing, unlike in training, and a
step needs no state. Search results that equal ESPnet's follow from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import glu, pad, softmax

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.archs.transformer_decoder import TransformerDecoderStep
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import TREE_INPUTS


class ConvolutionDecoderStep(TransformerDecoderStep):
    """A transformer decoder with a convolution in the place of self-attention."""

    def __init__(self, decoder: torch.nn.Module):
        names = ("tokens", "positions")
        super().__init__(decoder, {name: TREE_INPUTS[name] for name in names})

    def past_states(self) -> dict[str, State]:
        """None: see the module."""
        return {}

    def past_inputs(self, inputs: Sequence[torch.Tensor]) -> Sequence[Any]:
        """None: see the module."""
        return ()

    def mix(
        self,
        attention: torch.nn.Module,
        inputs: Sequence[Any],
        past: Sequence[torch.Tensor],
        states: list[torch.Tensor],
        x: torch.Tensor,
    ) -> torch.Tensor:
        """Convolve one token; equations of Wu et al. 2019, "Pay Less Attention"."""
        kind = type(attention).__name__
        x = glu(attention.linear1(x), dim=-1)
        if kind.startswith("Lightweight"):
            y = x * _newest_tap(attention)
        else:
            y = x  # the softmax of a dynamic kernel over one token is 1
        if attention.use_bias:
            y = y + attention.bias
        if kind == "LightweightConvolution2D":
            kernel = softmax(attention.weight_f[0, 0], dim=-1)
            y = torch.cat((y, _over_features(x, kernel[:, None])), dim=-1)
        elif kind == "DynamicConvolution2D":
            kernel = attention.linear_weight_f(x)
            y = torch.cat((y, _over_features(x, kernel[..., None])), dim=-1)
        return attention.linear2(y)


def _newest_tap(convolution: torch.nn.Module) -> torch.Tensor:
    """The weight (features,) of the newest token, the last that the kernel sees."""
    newest = convolution.kernel_size // 2
    weight = softmax(convolution.weight[:, 0, : newest + 1], dim=-1)[:, newest]
    return weight.repeat(convolution.linear1.in_features // convolution.wshare)


def _over_features(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Correlate each row of x (rows, features) with its kernel ([rows,] taps, 1)."""
    taps, features = kernel.size(-2), x.size(-1)
    window = torch.arange(features)[:, None] + torch.arange(taps)
    x = pad(x, (taps // 2, taps // 2))[:, window]  # (rows, features, taps)
    return torch.matmul(x, kernel)[..., 0]


_TINY = dict(attention_heads=2, linear_units=12, num_blocks=2, conv_wshare=2)

for _name, _conf in {
    "lightweight_conv": dict(_TINY, conv_kernel_length=[3, 11], concat_after=True),
    "lightweight_conv2d": dict(_TINY, conv_kernel_length=[5, 3], conv_usebias=1),
    "dynamic_conv": dict(_TINY, conv_kernel_length=[3, 4], conv_usebias=1),
    "dynamic_conv2d": dict(
        _TINY, conv_kernel_length=[5, 3], normalize_before=False, conv_usebias=1
    ),
}.items():
    register(
        Arch(
            role="decoder",
            name=_name,
            wrap=ConvolutionDecoderStep,
            tiny={"two_kernels": _conf},
            limits="input_layer embed",
        )
    )
