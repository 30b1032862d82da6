"""``tts: tacotron2``, with location-sensitive and forward attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.bundle.search import Frames
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.conditions import Conditions
from espnet_onnx_plugin.export.layers.generated_features import Postnet
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer, lstm_cell
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModule, TTSModules

#: Sharpness of the softmax, by ESPnet's class of attention.
_SCALING = {"AttLoc": 2.0, "AttForward": 1.0, "AttForwardTA": 1.0}

_ROW = ("symbols",)


class _Convolutions(torch.nn.Module):
    """``nets.pytorch_backend.tacotron2.encoder.Encoder``, of one text."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.encoder = encoder
        lstm = encoder.blstm
        self.lstm = torch.nn.ModuleList(
            RecurrentLayer(lstm, layer) for layer in range(lstm.num_layers)
        )

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """(symbols,) -> (1, symbols, dim)."""
        x = self.encoder.embed(text)[None].transpose(1, 2)
        for conv in self.encoder.convs or ():
            x = x + conv(x) if self.encoder.use_residual else conv(x)
        x = x.transpose(1, 2)
        length = torch.full((1,), x.size(1), dtype=torch.int64)
        for layer in self.lstm:
            x = layer(x, length)
        return x


class _Encoder(TTSModule):
    """Text to what every step reads, and the attention before the first."""

    def __init__(self, tts: torch.nn.Module):
        super().__init__()
        self.eos, self.att = tts.eos, tts.dec.att
        self.encoder = _Convolutions(tts.enc)
        self.conditions = Conditions(tts, tts.odim)
        self.inputs = {"text": Tensor("int64", ("tokens",)), **self.conditions.inputs}
        self.sizes = self.conditions.sizes
        self.outputs = {
            "hidden": Tensor("float32", ("symbols", self.att.mlp_enc.in_features)),
            "keys": Tensor("float32", ("symbols", self.att.att_dim)),
            "att_prev": Tensor("float32", _ROW),
        }
        if isinstance(getattr(self.att, "mlp_ta", None), torch.nn.Module):
            self.outputs["transition"] = Tensor("float32", (1,))

    def forward(self, text: torch.Tensor, *conditions: torch.Tensor):
        """(tokens,) -> the outputs."""
        text = torch.cat((text, torch.full((1,), self.eos, dtype=torch.int64)))
        hs = self.conditions(self.encoder(text), *conditions)[0]
        if type(self.att).__name__ == "AttLoc":
            start = torch.ones_like(hs[:, 0]) / hs.size(0)
        else:
            start = (torch.arange(hs.size(0)) == 0).float()
        outputs = (hs, self.att.mlp_enc(hs), start)
        if "transition" in self.outputs:
            outputs = (*outputs, torch.full((1,), 0.5))
        return outputs


class _Cell(torch.nn.Module):
    """An LSTM cell, with the mean of zoneout where there is one."""

    def __init__(self, cell: torch.nn.Module):
        super().__init__()
        self.rate = getattr(cell, "zoneout_rate", 0.0)
        cell = getattr(cell, "cell", cell)
        self.from_x = torch.nn.Linear(cell.input_size, 4 * cell.hidden_size)
        self.from_h = torch.nn.Linear(cell.hidden_size, 4 * cell.hidden_size)
        self.from_x.weight, self.from_x.bias = cell.weight_ih, cell.bias_ih
        self.from_h.weight, self.from_h.bias = cell.weight_hh, cell.bias_hh

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor):
        """(dim,) and the state (hidden,) twice -> the next state."""
        new = lstm_cell(self.from_x(x), self.from_h(h), h, c)
        return tuple(
            self.rate * old + (1 - self.rate) * value if self.rate else value
            for old, value in zip((h, c), new)
        )


class _Step(TTSModule):
    """One step of the decoder: ``reduction_factor`` frames."""

    def __init__(self, tts: torch.nn.Module, encoder: _Encoder):
        super().__init__()
        dec = self.dec = tts.dec
        self.att = dec.att
        self.scaling = _SCALING[type(self.att).__name__]
        self.cells = torch.nn.ModuleList(map(_Cell, dec.lstm))
        outputs = dict(encoder.outputs)
        self.inputs: dict[str, Tensor] = {
            "hidden": outputs["hidden"],
            "keys": outputs["keys"],
            "blocked": Tensor("bool", _ROW),
        }
        layers = [] if dec.prenet is None else dec.prenet.prenet
        if len(layers):
            units = layers[0][0].out_features
            self.inputs["keep"] = Tensor("float32", (len(layers), units))
        self.outputs = {
            "frames": Tensor("float32", (dec.reduction_factor, dec.odim)),
            "prob": Tensor("float32", (dec.reduction_factor,)),
            "att_w": Tensor("float32", _ROW),
        }
        self.states = {
            "prev_out": State("float32", (dec.odim,)),
            "att_prev": State("float32", _ROW),
        }
        if dec.cumulate_att_w:
            self.states["att_sum"] = State("float32", _ROW)
        if "transition" in outputs:
            self.states["transition"] = State("float32", (1,))
        for i, cell in enumerate(self.cells):
            size = cell.from_h.in_features
            self.states[f"z{i}"] = State("float32", (size,))
            self.states[f"c{i}"] = State("float32", (size,))

    def forward(self, *values: torch.Tensor):
        """The inputs and states -> the outputs and the next states, in their order."""
        given = dict(zip((*self.inputs, *self.states), values))
        state = {name: given[name] for name in self.states}
        hidden, prev_out, z0 = given["hidden"], state["prev_out"], state["z0"]
        weights = self._attend(given["keys"], given["blocked"], state)
        context = weights @ hidden
        if "transition" in state:
            agent = self.att.mlp_ta(torch.cat((context, prev_out, z0)))
            state["transition"] = torch.sigmoid(agent)
        state["att_prev"] = weights
        if "att_sum" in state:
            state["att_prev"] = state["att_sum"] = state["att_sum"] + weights

        x = prev_out
        if self.dec.prenet is not None:
            for layer, keep in zip(self.dec.prenet.prenet, given["keep"]):
                x = layer(x) * keep
        x = torch.cat((context, x))
        for i, cell in enumerate(self.cells):
            x, state[f"c{i}"] = cell(x, state[f"z{i}"], state[f"c{i}"])
            state[f"z{i}"] = x
        if self.dec.use_concate:
            x = torch.cat((x, context))
        frames = self.dec.feat_out(x).view(self.dec.odim, -1).T
        prob = torch.sigmoid(self.dec.prob_out(x))
        activation = self.dec.output_activation_fn
        last = frames[-1]
        state["prev_out"] = last if activation is None else activation(last)
        return (frames, prob, weights, *state.values())

    def _attend(self, keys, blocked, state) -> torch.Tensor:
        """``AttLoc``, ``AttForward`` and ``AttForwardTA``: weights (symbols,)."""
        att, before = self.att, state["att_prev"]
        located = att.loc_conv(before[None, None, None])[0, :, 0].T
        query = att.mlp_dec(state["z0"])
        energy = att.gvec(torch.tanh(att.mlp_att(located) + keys + query)).squeeze(1)
        energy = energy.masked_fill(blocked, -float("inf"))
        weights = torch.softmax(self.scaling * energy, dim=0)
        if type(att).__name__ == "AttLoc":
            return weights
        moved = F.pad(before, (1, 0))[:-1]
        if "transition" in state:
            stay = state["transition"]
            reach = stay * before + (1 - stay) * moved
        else:
            reach = before + moved
        weights = (reach * weights).clamp(min=1e-6)
        return F.normalize(weights, p=1, dim=0)


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.tts.tacotron2.Tacotron2``."""
    dec = tts.dec
    if type(dec.att).__name__ not in _SCALING:
        raise PluginError(
            f"attention {type(dec.att).__name__} of tacotron2 is not supported "
            "(supported: location, forward, forward_ta)"
        )
    if tts.enc.blstm is None:
        raise PluginError(
            "tacotron2 with elayers: 0 cannot be decoded by ESPnet either"
        )
    encoder = _Encoder(tts)
    modules = {
        "encoder": encoder,
        "decoder": _Step(tts, encoder),
        "postnet": Postnet(tts, dec.postnet, normalize, dec.output_activation_fn),
    }
    search = Frames(
        teacher_forcing=("speech",),
        reduction_factor=dec.reduction_factor,
        dropout=0.0 if dec.prenet is None else dec.prenet.dropout_rate,
        options=(
            "threshold",
            "minlenratio",
            "maxlenratio",
            "use_att_constraint",
            "backward_window",
            "forward_window",
        ),
    )
    return TTSModules(modules, search)


SMALL = dict(
    embed_dim=8,
    elayers=1,
    eunits=8,
    econv_layers=2,
    econv_chans=8,
    econv_filts=3,
    adim=8,
    aconv_chans=4,
    aconv_filts=3,
    dlayers=2,
    dunits=8,
    prenet_units=8,
    postnet_layers=2,
    postnet_chans=8,
    postnet_filts=3,
)

register(
    Arch(
        role="tts",
        name="tacotron2",
        wrap=wrap,
        tiny={
            "location": dict(SMALL, spks=3),
            "forward": dict(
                SMALL,
                atype="forward",
                reduction_factor=2,
                output_activation="tanh",
                use_residual=True,
                zoneout_rate=0.0,
                use_concate=False,
                spk_embed_dim=5,
                spk_embed_integration_type="concat",
            ),
            "forward_ta": dict(
                SMALL,
                atype="forward_ta",
                cumulate_att_w=False,
                elayers=2,
                prenet_layers=0,
                postnet_layers=0,
                langs=2,
            ),
        },
        limits="attention location, forward and forward_ta",
    )
)
