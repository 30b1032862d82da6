"""``separator: dprnn``: recurrent layers within segments and across them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.dual_path import DualPath, merge, split
from espnet_onnx_plugin.export.layers.separation import (
    MaskSeparator,
    Norm,
    Projected,
    pointwise,
)
from espnet_onnx_plugin.export.registry import Arch, register


class _Layer(torch.nn.Module):
    """A recurrent layer, and a norm of all segments together."""

    def __init__(self, rnn: torch.nn.Module, norm: torch.nn.Module):
        super().__init__()
        self.rnn, self.norm = Projected(rnn), Norm(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm.of_all(self.rnn(x))


class DPRNNSeparator(MaskSeparator):
    """``espnet2.enh.separator.dprnn_separator.DPRNNSeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__(separator)
        self.segment_size = separator.segment_size
        self.outputs = separator.num_outputs
        dprnn = separator.dprnn
        self.blocks = DualPath(
            map(_Layer, dprnn.row_rnn, dprnn.row_norm),
            map(_Layer, dprnn.col_rnn, dprnn.col_norm),
        )
        self.activation, self.convolution = dprnn.output

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks of features (frames, dim), see :class:`.MaskSeparator`."""
        y = self.activation(self.blocks(split(x, self.segment_size)))
        y = merge(pointwise(self.convolution, y), x.size(0))
        return y.unflatten(1, (-1, self.outputs)).unbind(2)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    return direct(DPRNNSeparator(separator), ends)


_SMALL = dict(layer=2, unit=6, segment_size=20)

register(
    Arch(
        role="separator",
        name="dprnn",
        wrap=wrap,
        tiny={
            "lstm": dict(_SMALL),
            "spectrum": dict(_SMALL, ends="stft", nonlinear="sigmoid", num_spk=1),
            "gru": dict(
                _SMALL,
                rnn_type="gru",
                bidirectional=False,
                segment_size=7,
                predict_noise=True,
            ),
            "tanh": dict(_SMALL, rnn_type="rnn", nonlinear="tanh", segment_size=2),
        },
    )
)
