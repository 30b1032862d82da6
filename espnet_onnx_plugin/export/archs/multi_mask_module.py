"""``mask_module: multi_mask``: one convolution for each number of speakers."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.separation import pointwise
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.runtime.diarization.diarizer import BOTTLENECK
from espnet_onnx_plugin.runtime.enhancement.multi_mask import (
    MIXTURE_FEATURES,
    masks_role,
)

_NONLINEAR = dict(
    softmax=lambda score: torch.softmax(score, dim=1),
    relu=torch.relu,
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
)


class Masks(GraphModule):
    """Outputs of a number of speakers, of the features of a mixture.

    ESPnet's module adds 0 times what its other convolutions give.

    Args:
        module: an ``espnet2.diar.layers.multi_mask.MultiMask``.
        num_spk: the speakers.
        ends: what stands around the separator.
    """

    sizes = dict(samples=2111, frames=53)

    def __init__(self, module: torch.nn.Module, num_spk: int, ends: Ends):
        super().__init__()
        self.convolution = module.mask_conv1x1[num_spk - 1]
        self.nonlinear = _NONLINEAR[module.mask_nonlinear]
        self.num_spk, self.ends = num_spk, ends
        channels = self.convolution.out_channels // num_spk
        size = self.convolution.in_channels
        self.inputs = ends.inputs(1)
        if ends.analysis is None:
            axes = ("frames", channels)
            self.inputs[MIXTURE_FEATURES] = Tensor("float32", axes)
        self.inputs[BOTTLENECK] = Tensor("float32", ("frames", size))
        self.outputs = ends.outputs(num_spk)

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """The graph's inputs to its output.

        Args:
            x: samples or spectrum of the mixture.
            others: its features where ``x`` are samples, and the bottleneck feature.
        """
        *given, bottleneck = others
        features = given[0][None] if given else self.ends.features(x)[0]
        score = pointwise(self.convolution, bottleneck)
        masks = self.nonlinear(score.unflatten(1, (self.num_spk, -1)))
        return self.ends.estimates([features * m for m in masks.unbind(1)], x)


def wrap(module: torch.nn.Module, ends: Ends) -> dict[str, GraphModule]:
    """A graph for each number of speakers, by role."""
    if module.mask_nonlinear not in _NONLINEAR:
        raise PluginError(
            f"mask_nonlinear '{module.mask_nonlinear}' is none of "
            f"{', '.join(_NONLINEAR)}"
        )
    numbers = range(1, module.max_num_spk + 1)
    return {masks_role(n): Masks(module, n, ends) for n in numbers}


register(
    Arch(
        role="mask_module",
        name="multi_mask",
        wrap=wrap,
        tiny={
            name: dict(bottleneck_dim=8, max_num_spk=number, mask_nonlinear=name)
            for name, number in dict(relu=3, softmax=2, sigmoid=2, tanh=2).items()
        },
    )
)
