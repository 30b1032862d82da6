"""``separator: tcn_nomask``: temporal convolutions to a bottleneck feature."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.separation import global_norms
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.runtime.diarization.diarizer import BOTTLENECK
from espnet_onnx_plugin.runtime.enhancement.multi_mask import MIXTURE_FEATURES


class Bottleneck(GraphModule):
    """``TCNSeparatorNomask`` behind its encoder.

    It gives the features that a mask is for, too, unless these are the spectrum that it
    reads.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
    """

    sizes = dict(samples=2111, frames=53)

    def __init__(self, separator: torch.nn.Module, ends: Ends):
        super().__init__()
        if ends.encoder is None:
            raise PluginError(
                "separator 'tcn_nomask' reads frames: encoder has to be conv or stft"
            )
        self.separator, self.ends = separator, ends
        self.inputs = ends.inputs(1)
        size = separator.output_dim
        self.outputs = {BOTTLENECK: Tensor("float32", ("frames", size))}
        if ends.analysis is None:
            axes = ("frames", ends.encoder.output_dim)
            self.outputs[MIXTURE_FEATURES] = Tensor("float32", axes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A mixture to the bottleneck feature (frames, size), and its features."""
        features, lengths = self.ends.features(x)
        with global_norms():
            bottleneck, _ = self.separator(features, lengths)
        if self.ends.analysis is None:
            return bottleneck[0], features[0]
        return (bottleneck[0],)


_SMALL = dict(layer=2, stack=2, bottleneck_dim=8, hidden_dim=10, kernel=3)

register(
    Arch(
        role="separator_nomask",
        name="tcn_nomask",
        wrap=Bottleneck,
        tiny={
            "global": dict(_SMALL),
            "spectrum": dict(_SMALL, norm_type="cLN", ends="stft"),
            "causal": dict(_SMALL, causal=True, norm_type="BN"),
        },
        limits="before a diarization",
    )
)
