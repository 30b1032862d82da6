"""``separator: rnn``: masks of recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.enh_stream import MaskStep, streamed
from espnet_onnx_plugin.export.layers.separation import MaskSeparator, Stack
from espnet_onnx_plugin.export.registry import Arch, register


class RNNSeparator(MaskSeparator):
    """``espnet2.enh.separator.rnn_separator.RNNSeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__(separator)
        self.rnn, self.linear = Stack(separator.rnn), separator.linear

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks, see the base class."""
        return self.step(x, ())[0]

    def step(
        self, x: torch.Tensor, states: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], Sequence[torch.Tensor]]:
        """Masks and states, see :class:`.MaskStep`."""
        x, after = self.rnn(x, states)
        return [linear(x) for linear in self.linear], after


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator, and its step where it runs in one direction."""
    wrapped, rnn = RNNSeparator(separator), separator.rnn.nbrnn
    whole = direct(wrapped, ends)
    if rnn.bidirectional:
        return whole
    names = ("h", "c") if rnn.mode == "LSTM" else ("h",)
    state = State("float32", (1, 1, rnn.hidden_size))
    states = {f"{n}_{i}": state for i in range(rnn.num_layers) for n in names}
    return streamed(whole, MaskStep(wrapped, states))


_SMALL = dict(layer=2, unit=6)

register(
    Arch(
        role="separator",
        name="rnn",
        wrap=wrap,
        tiny={
            "spectrum": dict(_SMALL, ends="stft"),
            "lstm": dict(_SMALL, rnn_type="lstm", nonlinear="relu", num_spk=1),
            "one_direction": dict(_SMALL, rnn_type="gru", ends="stft"),
            "gru": dict(_SMALL, rnn_type="bgru", nonlinear="tanh", predict_noise=True),
        },
    )
)
