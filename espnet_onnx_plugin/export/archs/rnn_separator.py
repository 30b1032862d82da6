"""``separator: rnn``: masks of recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.separation import MaskSeparator, Stack
from espnet_onnx_plugin.export.registry import Arch, register


class RNNSeparator(MaskSeparator):
    """``espnet2.enh.separator.rnn_separator.RNNSeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__(separator)
        self.rnn, self.linear = Stack(separator.rnn), separator.linear

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks of features (frames, dim), see :class:`.MaskSeparator`."""
        x = self.rnn(x)
        return [linear(x) for linear in self.linear]


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    return direct(RNNSeparator(separator), ends)


_SMALL = dict(layer=2, unit=6)

register(
    Arch(
        role="separator",
        name="rnn",
        wrap=wrap,
        tiny={
            "spectrum": dict(_SMALL, ends="stft"),
            "lstm": dict(_SMALL, rnn_type="lstm", nonlinear="relu", num_spk=1),
            "gru": dict(_SMALL, rnn_type="bgru", nonlinear="tanh", predict_noise=True),
        },
    )
)
