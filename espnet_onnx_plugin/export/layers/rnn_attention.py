"""One step of the attentions of ESPnet's RNN decoder (``initial_att``).

All of them are one computation: with heads h and their width d, over frames t,

    energy = g . tanh(key(t) + query + location(t)),    or    tanh(key(t)) . tanh(query)
    weights = softmax(scaling * energy)
    context = sum over t of weights * value(t)

An attention of one head has the encoder's output for values. What is called location
here comes from the weights of earlier steps: of the last one, of a window of them, or
their sum. Frames come last, so that nothing large is transposed. Products of weights
with frames have the weights on the left: as convolutions or linear layers the optimizer
and the quantizer would take them, which costs more than it brings.

Before the first step ESPnet's weights are uniform over the frames. A state holds how
far the weights are from that, and starts as zeros.

The sum of a coverage attention is that of the hypothesis itself, as in training. In
ESPnet's search the hypotheses share the list that it is taken of, so that with a beam
each attends by what the others attended to; that is not repeated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import linear, pad

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.recurrent import lstm_cell
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.steps import masked


class _Kind(NamedTuple):
    """Differences between attentions, beside the layers that they have.

    Attributes:
        scaling: of the energies; None: the attention's own.
        dot: whether energies are dot products.
        past: the earlier weights that take part: none, those of the ``last`` step (or
            of a window), or the ``sum`` of all.
    """

    scaling: float | None = 2.0  # the default of ESPnet's ``forward``
    dot: bool = False
    past: str = "none"


_KINDS = {
    "AttDot": _Kind(dot=True),
    "AttAdd": _Kind(),
    "AttLoc": _Kind(past="last"),
    "AttLoc2D": _Kind(past="last"),
    "AttLocRec": _Kind(past="last"),
    "AttCov": _Kind(past="sum"),
    "AttCovLoc": _Kind(past="sum"),
    "AttMultiHeadDot": _Kind(scaling=None, dot=True),
    "AttMultiHeadAdd": _Kind(scaling=None),
    "AttMultiHeadLoc": _Kind(past="last"),
    "AttMultiHeadMultiResLoc": _Kind(scaling=None, past="last"),
}


def _heads(attention: torch.nn.Module, *names: str) -> list[torch.nn.Module]:
    """The layer of each head, by the name that it has with one head or with several."""
    for name in names:
        layer = getattr(attention, name, None)
        if layer is not None:
            return list(layer) if isinstance(layer, torch.nn.ModuleList) else [layer]
    return []


def _joined(layers: Sequence[torch.nn.Module], attribute: str) -> torch.Tensor:
    """Weights or biases of the heads, one after the other."""
    return torch.cat([getattr(layer, attribute).detach() for layer in layers])


def _linear(layers: Sequence[torch.nn.Module]) -> torch.nn.Linear:
    """The linear layers of the heads as one."""
    bias = layers[0].bias is not None
    whole = torch.nn.Linear(
        layers[0].in_features, sum(layer.out_features for layer in layers), bias
    )
    whole.weight.data = _joined(layers, "weight")
    if bias:
        whole.bias.data = _joined(layers, "bias")
    return whole


def _filters(layers: Sequence[torch.nn.Conv2d]) -> torch.nn.Conv1d:
    """The convolutions over earlier weights as one, of which each head is a group.

    Shorter filters get zeros around them; a window of weights is channels.
    """
    weights = [layer.weight.detach()[:, 0] for layer in layers]
    width = max(weight.size(2) for weight in weights)
    weight = torch.cat([pad(w, [(width - w.size(2)) // 2] * 2) for w in weights])
    heads, (outputs, window, _) = len(layers), weight.shape
    whole = torch.nn.Conv1d(
        heads * window, outputs, width, padding=width // 2, groups=heads, bias=False
    )
    whole.weight.data = weight
    return whole


class _MeanMemory(torch.nn.Module):
    """The mean of the encoder's output, for the decoder without attention."""

    def forward(self, encoder_out, encoder_out_lens):
        valid = ~make_pad_mask(encoder_out_lens, encoder_out[..., 0])
        weights = valid.to(encoder_out.dtype) / encoder_out_lens[:, None]
        return (torch.matmul(weights[:, None], encoder_out)[:, 0],)


class _Memory(torch.nn.Module):
    """Keys and values of the heads, and what there is to know of the frames."""

    def __init__(self, attention: torch.nn.Module, dot: bool, past: bool):
        super().__init__()
        keys = _heads(attention, "mlp_enc", "mlp_k")
        values = _heads(attention, "mlp_v")
        self.heads = len(keys)
        self.key = _linear(keys)
        self.value = _linear(values) if values else None
        self.dot, self.past = dot, past

    def forward(self, encoder_out, encoder_out_lens):
        valid = ~make_pad_mask(encoder_out_lens, encoder_out[..., 0])
        key = self.key(encoder_out).unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)
        value = encoder_out if self.value is None else self.value(encoder_out)
        value = value.unflatten(2, (self.heads, -1)).transpose(1, 2)
        tensors = [
            masked(valid)[:, None, None],
            torch.tanh(key) if self.dot else key,
            value,
        ]
        if self.past:
            uniform = valid.to(encoder_out.dtype) / encoder_out_lens[:, None]
            tensors.append(uniform[:, None, None])
        return tuple(tensors)


class NoAttention(torch.nn.Module):
    """ESPnet's ``NoAtt``: the mean of the encoder's output, in every step."""

    def __init__(self, dim: int):
        super().__init__()
        self.memory = _MeanMemory()
        self.memory_tensors = {"memory_mean": Tensor("float32", ("utterances", dim))}
        self.states: dict[str, State] = {}

    def forward(self, z, shape, memory, past):
        """One step of the attention, as :meth:`StepAttention.forward`."""
        [mean] = memory
        return mean[:, None].expand(*shape, mean.size(1)).flatten(0, 1), []


class StepAttention(torch.nn.Module):
    """An attention of ESPnet's, for all hypotheses of a batch.

    Attributes:
        memory: the module that makes of the encoder's output what every step reads.
        memory_tensors, states: what it gives and what a step keeps, by name.
    """

    def __init__(self, attention: torch.nn.Module, kind: _Kind):
        super().__init__()
        keys = _heads(attention, "mlp_enc", "mlp_k")
        self.heads, width = len(keys), keys[0].out_features
        self.dot, self.past, scaling = kind.dot, kind.past, kind.scaling
        self.scaling = attention.scaling if scaling is None else scaling
        self.query = _linear(_heads(attention, "mlp_dec", "mlp_q"))
        self.output = getattr(attention, "mlp_o", None)
        # A bias of the energies is the same for all frames, and softmax takes it away.
        self._keep("energy", _heads(attention, "gvec"))
        self._keep("projection", projections := _heads(attention, "mlp_att", "wvec"))
        if projections and projections[0].bias is not None:
            self.query.bias = torch.nn.Parameter(_joined(projections, "bias"))
        convolutions = _heads(attention, "loc_conv")
        self.filters = _filters(convolutions) if convolutions else None
        self.window = convolutions[0].kernel_size[0] if convolutions else 1
        self.cell = getattr(attention, "att_lstm", None)
        self.memory = _Memory(attention, self.dot, self.past != "none")
        values = _heads(attention, "mlp_v")
        value_width = values[0].out_features if values else attention.eprojs
        frames = ("utterances", 1, 1, "frames")
        of_head = ("utterances", self.heads)
        self.memory_tensors = {
            "memory_bias": Tensor("float32", frames),
            "memory_key": Tensor("float32", (*of_head, width, "frames")),
            "memory_value": Tensor("float32", (*of_head, "frames", value_width)),
        }
        self.states = {}
        if self.past != "none":
            self.memory_tensors["memory_uniform"] = Tensor("float32", frames)
            axes = ("rows", self.heads * self.window, "frames")
            self.states["attention"] = State("float32", axes)
        if self.cell is not None:
            for name in ("attention_h", "attention_c"):
                self.states[name] = State("float32", ("rows", width))

    def _keep(self, name: str, layers: Sequence[torch.nn.Linear]) -> None:
        """Keep the weights of the heads' layers, (heads, output, input)."""
        weights = [layer.weight.detach() for layer in layers]
        self.register_buffer(name, torch.stack(weights) if weights else None)

    def forward(
        self,
        z: torch.Tensor,
        shape: Sequence[int],
        memory: Sequence[torch.Tensor],
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Attend to each utterance's frames with its hypotheses.

        Args:
            z: (rows, units), the decoder's last output.
            shape: numbers of utterances and hypotheses.
            memory: what :attr:`memory` gave.
            past: the states of the rows.

        Returns:
            The context (rows, dim), and the new states.
        """
        bias, key, value, *uniform = memory
        # (U, H, h, d), of utterances and their hypotheses
        query = self.query(z).unflatten(1, (self.heads, -1)).unflatten(0, shape)
        new: list[torch.Tensor] = []
        if self.dot:
            energy = torch.matmul(torch.tanh(query).transpose(1, 2), key)
        else:
            location = None
            if past:
                history = past[0].unflatten(0, shape) + uniform[0]
                location = history.flatten(0, 1)
                if self.filters is not None:
                    location = self.filters(location)
                location = location.unflatten(1, (self.heads, -1)).unflatten(0, shape)
            if self.cell is not None:
                h, c = self._recur(location, uniform[0], past[1:])
                query, location, new = query + h.view_as(query), None, [h, c]
            x = key[:, None] + self._projected(query[..., None], location)
            # As many copies as there are products: where one is shared by some of them,
            # onnxruntime's CUDA reads addresses of the host's in every step.
            energy = self.energy.expand(*x.shape[:3], -1, -1)
            energy = torch.matmul(energy, torch.tanh(x))[..., 0, :].transpose(1, 2)
        weights = torch.softmax(self.scaling * energy + bias, dim=-1)  # (U, h, H, t)
        context = torch.matmul(weights, value).transpose(1, 2).flatten(0, 1).flatten(1)
        if self.output is not None:
            context = self.output(context)
        if past:
            new = [self._remember(past[0], weights, uniform[0]), *new]
        return context, new

    def _projected(self, query, location):
        """The query (U, H, h, d, 1) and what the location (U, H, h, channels, frames)
        adds to it: the query is one more column of the weights, for ones.
        """
        if location is None:
            return query
        weights = self.projection.expand(*query.shape[:3], -1, -1)
        ones = torch.ones_like(location[..., :1, :])
        weights = torch.cat((weights, query), dim=-1)
        return torch.matmul(weights, torch.cat((location, ones), dim=-2))

    def _recur(self, location, uniform, states):
        """The new states of the cell that reads the largest outputs of the filters."""
        # Behind the end of an utterance the filters still see its last weights.
        x = torch.where(uniform[:, None] > 0, torch.relu(location), 0.0)
        x = x.amax(dim=-1).flatten(0, 1).flatten(1)
        h, c = states
        from_x, from_h = linear(x, self.cell.weight_ih), linear(h, self.cell.weight_hh)
        return lstm_cell(from_x, from_h, h, c)

    def _remember(self, past, weights, uniform):
        """The state after a step, (rows, h * window, frames)."""
        if self.past == "sum":
            return past + weights.transpose(1, 2).flatten(0, 1)
        new = (weights - uniform).transpose(1, 2).flatten(0, 1)
        return torch.cat((past[:, self.heads :], new), dim=1)


def step_attention(attention: torch.nn.Module, dim: int) -> torch.nn.Module:
    """The step of an attention.

    Args:
        attention: what ESPnet's ``initial_att`` built.
        dim: size of the encoder's output.

    Raises:
        PluginError: if it is not one of those.
    """
    name = type(attention).__name__
    if name == "NoAtt":
        return NoAttention(dim)
    if name not in _KINDS:
        known = ", ".join(["NoAtt", *_KINDS])
        raise PluginError(
            f"attention {name} is not supported in an RNN decoder (supported: {known})"
        )
    return StepAttention(attention, _KINDS[name])
