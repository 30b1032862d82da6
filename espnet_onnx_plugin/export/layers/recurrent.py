"""Recurrent layers: one step as equations, a whole sequence as one ONNX operator.

In a step the cells are written out: their products are then matrix products like any
other, which the optimizer and the quantizer know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import linear

from espnet_onnx_plugin.bundle import State

#: Gates in the order of ONNX's operators, by their place in torch's weights (LSTM:
#: i, f, g, o; GRU: r, z, n).
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}


class RecurrentLayer(torch.nn.Module):
    """One layer of ``torch.nn.LSTM``, ``GRU`` or ``RNN``, in one or both directions.

    Args:
        rnn: with ``batch_first``; an ``RNN`` with tanh, as ONNX's.
        layer: which of its layers.
    """

    def __init__(self, rnn: torch.nn.RNNBase, layer: int = 0):
        super().__init__()
        self.mode = rnn.mode
        self.operator, _, activation = rnn.mode.partition("_")
        self.attributes = dict(
            hidden_size=rnn.hidden_size,
            direction="bidirectional" if rnn.bidirectional else "forward",
        )
        count = 2 if rnn.bidirectional else 1
        if rnn.mode == "GRU":
            self.attributes["linear_before_reset"] = 1  # as torch, unlike ONNX's first
        if activation:
            self.attributes["activations"] = [activation.capitalize()] * count
        weights = rnn.all_weights[layer * count : (layer + 1) * count]
        weight, recurrent_weight, *biases = (
            torch.stack([self._reordered(tensor) for tensor in tensors])
            for tensors in zip(*weights)
        )
        # (directions, gates * hidden, input), likewise (..., hidden)
        self.register_buffer("weight", weight)
        self.register_buffer("recurrent_weight", recurrent_weight)
        self.register_buffer("bias", torch.cat(biases, dim=1))

    def _reordered(self, tensor: torch.Tensor) -> torch.Tensor:
        gates = tensor.detach().chunk(len(_GATES[self.mode]))
        return torch.cat([gates[i] for i in _GATES[self.mode]])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Run over sequences, each as if it were alone.

        Args:
            x: (batch, time, input).
            lengths: (batch,) int64.

        Returns:
            (batch, time, directions * hidden), zeros behind the end of each.
        """
        y, *_ = self._run(x.transpose(0, 1), lengths.to(torch.int32))
        return y.permute(2, 0, 1, 3).flatten(2)

    def sequences(
        self, x: torch.Tensor, states: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, ...]:
        """Run over sequences of one length, which lie as the operator wants them.

        Args:
            x: (time, sequences, input).
            states: before the first step, each (directions, sequences, hidden): h, and
                c of an LSTM; none: zeros.

        Returns:
            (time, sequences, directions * hidden), and the states after the last step.
        """
        y, *states = self._run(x, None, states)
        return y.transpose(1, 2).flatten(2), *states

    def _run(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        states: Sequence[torch.Tensor] = (),
    ) -> Sequence[torch.Tensor]:
        """The operator: outputs (time, directions, sequences, hidden), and states."""
        directions, _, hidden = self.recurrent_weight.shape
        weights = [self.weight, self.recurrent_weight, self.bias]
        after = (directions, x.size(1), hidden)
        shapes = [(x.size(0), *after), after, after]
        if self.operator != "LSTM":
            shapes.pop()
        return torch.onnx.ops.symbolic_multi_out(
            self.operator,
            [x, *weights, lengths, *states],
            attrs=self.attributes,
            dtypes=[x.dtype] * len(shapes),
            shapes=shapes,
        )


class RecurrentStack(torch.nn.Module):
    """All layers of ``torch.nn.LSTM`` or ``GRU``, over one sequence.

    Args:
        rnn: with ``batch_first``.
    """

    def __init__(self, rnn: torch.nn.RNNBase):
        super().__init__()
        layers = range(rnn.num_layers)
        self.layers = torch.nn.ModuleList(
            RecurrentLayer(rnn, layer) for layer in layers
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, time, input) -> (1, time, directions * hidden)."""
        length = torch.full((1,), x.size(1), dtype=torch.int64)
        for layer in self.layers:
            x = layer(x, length)
        return x


# The cells: ``from_x`` and ``from_h`` are the linear layers of the input and of the
# previous output, each (rows, gates * hidden); the state's tensors are (rows, hidden).
# Each returns the new state, whose first tensor is the output.


def lstm_cell(
    from_x: torch.Tensor, from_h: torch.Tensor, h: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The equations of ``torch.nn.LSTM``."""
    i, f, g, o = (from_x + from_h).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(
    from_x: torch.Tensor, from_h: torch.Tensor, h: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The equations of ``torch.nn.GRU``."""
    r, z, n = from_x.chunk(3, dim=-1)
    r_h, z_h, n_h = from_h.chunk(3, dim=-1)
    z = torch.sigmoid(z + z_h)
    return ((1 - z) * torch.tanh(n + torch.sigmoid(r + r_h) * n_h) + z * h,)


def tanh_cell(
    from_x: torch.Tensor, from_h: torch.Tensor, h: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The equations of ``torch.nn.RNN`` with tanh."""
    return (torch.tanh(from_x + from_h),)


def relu_cell(
    from_x: torch.Tensor, from_h: torch.Tensor, h: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The equations of ``torch.nn.RNN`` with relu."""
    return (torch.relu(from_x + from_h),)


#: By the names that torch's layers give themselves.
CELLS = {
    "LSTM": lstm_cell,
    "GRU": gru_cell,
    "RNN_TANH": tanh_cell,
    "RNN_RELU": relu_cell,
}


class RecurrentStep:
    """Layers of one direction, one step.

    Args:
        rnns: the layers, first to last: ``torch.nn.RNNBase`` of any number of them, or
            ``torch.nn.RNNCellBase``.

    Attributes:
        states: of the rows by name: the layers' outputs ``h``, and ``c`` of an LSTM.
    """

    def __init__(self, *rnns: torch.nn.Module):
        self._rnns = rnns
        mode = getattr(rnns[0], "mode", type(rnns[0]).__name__.removesuffix("Cell"))
        self._cell = CELLS[mode]
        axes = ("rows", len(list(self._weights())), rnns[0].hidden_size)
        names = ("h", "c") if mode == "LSTM" else ("h",)
        self.states = dict.fromkeys(names, State("float32", axes))

    def _weights(self) -> Iterator[Sequence[torch.Tensor]]:
        """Weights of each layer for its input and its previous output, and biases."""
        for rnn in self._rnns:
            if isinstance(rnn, torch.nn.RNNBase):
                yield from rnn.all_weights
            else:
                yield rnn.weight_ih, rnn.weight_hh, rnn.bias_ih, rnn.bias_hh

    def __call__(
        self, x: torch.Tensor, states: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Run the layers.

        Args:
            x: (rows, input).
            states: each (rows, layers, hidden).

        Returns:
            Output of the last layer (rows, hidden), and the new states.
        """
        after = []
        for i, (w_ih, w_hh, b_ih, b_hh) in enumerate(self._weights()):
            past = [state[:, i] for state in states]
            from_x, from_h = linear(x, w_ih, b_ih), linear(past[0], w_hh, b_hh)
            new = self._cell(from_x, from_h, *past)
            after.append(new)
            x = new[0]
        return (x, *(torch.stack(state, dim=1) for state in zip(*after)))
