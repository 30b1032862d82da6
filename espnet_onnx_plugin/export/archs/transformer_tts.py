"""``tts: transformer``.

ESPnet drops out units of the prenet in inference too, of all the frames so far and anew
in every step. What the first layer attends to is therefore made again in every step,
the other layers keep their keys and values.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.bundle.search import Frames
from espnet_onnx_plugin.export.layers.conditions import Conditions
from espnet_onnx_plugin.export.layers.draws import unused_draws
from espnet_onnx_plugin.export.layers.generated_features import Postnet
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModule, TTSModules


def _heads(att: torch.nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """(time, dim) through ``linear_q``, ``_k`` or ``_v`` -> (heads, time, size)."""
    x = getattr(att, f"linear_{name}")(x).view(-1, att.h, att.d_k).transpose(0, 1)
    norm = getattr(att, f"{name}_norm", None)
    return x if norm is None else norm(x)


class _Encoder(TTSModule):
    """Text to keys and values, for every layer's attention to the text."""

    def __init__(self, tts: torch.nn.Module):
        super().__init__()
        self.tts, self.eos = tts, tts.eos
        self.unused_draws = unused_draws(tts.encoder)
        self.conditions = Conditions(tts, tts.odim)
        self.inputs = {"text": Tensor("int64", ("tokens",)), **self.conditions.inputs}
        self.sizes = self.conditions.sizes
        layers = tts.decoder.decoders
        att = layers[0].src_attn
        tensor = Tensor("float32", (len(layers), att.h, "symbols", att.d_k))
        self.outputs = {"source_keys": tensor, "source_values": tensor}

    def forward(self, text: torch.Tensor, *conditions: torch.Tensor):
        """(tokens,) -> keys and values (layers, heads, symbols, size)."""
        text = torch.cat((text, torch.full((1,), self.eos, dtype=torch.int64)))
        hs, _ = self.tts.encoder(text[None], None)
        hs = self.conditions(hs, *conditions)[0]
        atts = [layer.src_attn for layer in self.tts.decoder.decoders]
        return tuple(
            torch.stack([_heads(att, name, hs) for att in atts]) for name in "kv"
        )


class _Step(TTSModule):
    """One step of the decoder: ``reduction_factor`` frames."""

    def __init__(self, tts: torch.nn.Module, encoder: _Encoder):
        super().__init__()
        self.decoder, self.odim = tts.decoder, tts.odim
        self.feat_out, self.prob_out = tts.feat_out, tts.prob_out
        self.unused_draws = unused_draws(tts.decoder)  # with teacher forcing
        self.layers = tts.decoder.decoders
        self.inputs: dict[str, Tensor] = dict(encoder.outputs)
        prenet = getattr(self.decoder.embed[0], "__getitem__", None)
        self.prenet = None if prenet is None else self.decoder.embed[0][0]
        if self.prenet is not None:
            layers = self.prenet.prenet
            shape = (len(layers), "history", layers[0][0].out_features)
            self.inputs["keep"] = Tensor("float32", shape)
        att = self.layers[0].self_attn
        factor = tts.reduction_factor
        self.outputs = {
            "frames": Tensor("float32", (factor, tts.odim)),
            "prob": Tensor("float32", (factor,)),
            "att_w": Tensor("float32", (len(self.layers), att.h, "symbols")),
        }
        self.states = {
            "prev_out": State("float32", (tts.odim,)),
            "history": State("float32", ("nodes", tts.odim)),
        }
        for i in range(1, len(self.layers)):
            for name in (f"k{i}", f"v{i}"):
                self.states[name] = State("float32", (att.h, "nodes", att.d_k))

    @property
    def sizes(self) -> dict[str, int]:
        """Dropout is for the frames so far and the new one."""
        return {"nodes": 9, "history": 10}

    def _embed(self, ys: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """(frames, odim) -> (frames, dim): prenet, projection and position."""
        if self.prenet is None:
            return self.decoder.embed(ys[None])[0]
        for layer, factor in zip(self.prenet.prenet, keep):
            ys = layer(ys) * factor
        (_, projection), position = self.decoder.embed
        return position(projection(ys)[None])[0]

    @staticmethod
    def _attend(att, q, k, v) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of one query: (1, dim), and weights (heads, time)."""
        weights = torch.softmax(q @ k.transpose(1, 2) / att.d_k**0.5, dim=-1)
        return att.linear_out((weights @ v).transpose(0, 1).flatten(1)), weights[:, 0]

    def _residual(self, layer, number: int, x: torch.Tensor, part) -> torch.Tensor:
        """``x`` (1, dim) and the output of ``part`` for ``x``, added."""
        norm = getattr(layer, f"norm{number}")
        y = norm(x) if layer.normalize_before else x
        made = part(y)
        if layer.concat_after and number < 3:
            made = getattr(layer, f"concat_linear{number}")(torch.cat((y, made), dim=1))
        return x + made if layer.normalize_before else norm(x + made)

    def _layer(self, i: int, x, rows, given, state) -> tuple[torch.Tensor, ...]:
        """A layer of the decoder on the new frame ``x`` (1, dim).

        Args:
            i: which layer.
            rows: what the first layer attends to, (frames, dim).
            given, state: tensors by name; the layer's keys and values are renewed.

        Returns:
            (1, dim), and the attention to the text (heads, symbols).
        """
        layer, weights = self.layers[i], []

        def itself(y: torch.Tensor) -> torch.Tensor:
            att = layer.self_attn
            if i == 0:
                seen = layer.norm1(rows) if layer.normalize_before else rows
                k, v = _heads(att, "k", seen), _heads(att, "v", seen)
            else:
                k = torch.cat((state[f"k{i}"], _heads(att, "k", y)), dim=1)
                v = torch.cat((state[f"v{i}"], _heads(att, "v", y)), dim=1)
                state.update({f"k{i}": k, f"v{i}": v})
            return self._attend(att, _heads(att, "q", y), k, v)[0]

        def source(y: torch.Tensor) -> torch.Tensor:
            att = layer.src_attn
            k, v = given["source_keys"][i], given["source_values"][i]
            context, attended = self._attend(att, _heads(att, "q", y), k, v)
            weights.append(attended)
            return context

        x = self._residual(layer, 1, x, itself)
        x = self._residual(layer, 2, x, source)
        return self._residual(layer, 3, x, layer.feed_forward), weights[0]

    def forward(self, *values: torch.Tensor):
        """The inputs and states -> the outputs and the next states, in their order."""
        given = dict(zip((*self.inputs, *self.states), values))
        state = {name: given[name] for name in self.states}
        history = torch.cat((state["history"], state["prev_out"][None]))
        rows = self._embed(history, given.get("keep"))
        x, attended = rows[-1:], []
        for i in range(len(self.layers)):
            x, weights = self._layer(i, x, rows, given, state)
            attended.append(weights)
        if self.decoder.normalize_before:
            x = self.decoder.after_norm(x)
        frames = self.feat_out(x).view(-1, self.odim)
        prob = torch.sigmoid(self.prob_out(x))[0]
        state.update(prev_out=frames[-1], history=history)
        return (frames, prob, torch.stack(attended), *state.values())


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.tts.transformer.Transformer``."""
    encoder = _Encoder(tts)
    step = _Step(tts, encoder)
    modules = {
        "encoder": encoder,
        "decoder": step,
        "postnet": Postnet(tts, tts.postnet, normalize),
    }
    search = Frames(
        teacher_forcing=("speech",),
        reduction_factor=tts.reduction_factor,
        limits_steps=True,
        dropout=0.0 if step.prenet is None else step.prenet.dropout_rate,
        options=("threshold", "minlenratio", "maxlenratio"),
    )
    return TTSModules(modules, search)


SMALL = dict(
    embed_dim=8,
    eprenet_conv_layers=1,
    eprenet_conv_chans=8,
    eprenet_conv_filts=3,
    dprenet_layers=2,
    dprenet_units=8,
    elayers=1,
    eunits=8,
    adim=8,
    aheads=2,
    dlayers=2,
    dunits=8,
    postnet_layers=2,
    postnet_chans=8,
    postnet_filts=3,
)

register(
    Arch(
        role="tts",
        name="transformer",
        wrap=wrap,
        tiny={
            "speakers": dict(SMALL, spks=3, langs=2, spk_embed_dim=5),
            "norm_after": dict(
                SMALL,
                encoder_normalize_before=False,
                decoder_normalize_before=False,
                decoder_concat_after=True,
                encoder_concat_after=True,
                eprenet_conv_layers=0,
                use_scaled_pos_enc=False,
                reduction_factor=2,
                postnet_layers=0,
            ),
            "no_prenet": dict(SMALL, dprenet_layers=0, dlayers=1),
        },
    )
)
