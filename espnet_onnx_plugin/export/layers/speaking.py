"""What text-to-speech models have in common: conditions, and durations to frames."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.parts import Part, idle_draws


class Style(torch.nn.Module):
    """``espnet2.tts.gst.style_encoder.StyleEncoder``: features to a style embedding.

    Attributes:
        stride: frames that become one.
    """

    def __init__(self, gst: torch.nn.Module):
        super().__init__()
        self.convs = gst.ref_enc.convs
        self.stride = gst.ref_enc.stride**gst.ref_enc.conv_layers
        gru = gst.ref_enc.gru
        self.gru = torch.nn.ModuleList(
            RecurrentLayer(gru, layer) for layer in range(gru.num_layers)
        )
        self.tokens = gst.stl

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        """(1, frames, dim) -> (1, size)."""
        hs = self.convs(feats.unsqueeze(1)).transpose(1, 2).flatten(2)
        lengths = torch.full((1,), hs.size(1), dtype=torch.int64)
        for layer in self.gru:
            hs = layer(hs, lengths)
        return self.tokens(hs[:, -1])


class Conditions(torch.nn.Module):
    """Style, speaker and language, as ESPnet's models add them to hidden states.

    Args:
        tts: ESPnet's model, with its ``gst``, ``sid_emb``, ``lid_emb``, ``projection``.
        feature_dim: size of a frame of the features that the style is taken from.

    Attributes:
        inputs: what it reads besides the hidden states.
        below, sizes: as of :class:`~espnet_onnx_plugin.export.parts.Part`.
    """

    def __init__(self, tts: torch.nn.Module, feature_dim: int):
        super().__init__()
        self.inputs: dict[str, Tensor] = {}
        self.sizes: dict[str, int] = {}
        if getattr(tts, "use_gst", False):
            self.inputs["feats"] = Tensor("float32", ("frames", feature_dim))
            self.style = Style(tts.gst)
            # Fewer frames become one, and the graph would hold that for a constant.
            self.sizes["frames"] = 3 * self.style.stride
        if tts.spks is not None:
            self.inputs["sids"] = Tensor("int64", (1,))
        if tts.langs is not None:
            self.inputs["lids"] = Tensor("int64", (1,))
        if tts.spk_embed_dim is not None:
            self.inputs["spembs"] = Tensor("float32", (tts.spk_embed_dim,))
        self.below = {"sids": tts.spks, "lids": tts.langs}
        self.tts = tts

    def forward(self, hs: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        """(1, symbols, dim) -> the same, or wider where the speaker is appended."""
        given = dict(zip(self.inputs, values))
        if "feats" in given:
            hs = hs + self.style(given["feats"][None]).unsqueeze(1)
        if "sids" in given:
            hs = hs + self.tts.sid_emb(given["sids"]).unsqueeze(1)
        if "lids" in given:
            hs = hs + self.tts.lid_emb(given["lids"]).unsqueeze(1)
        if "spembs" in given:
            hs = self.tts._integrate_with_spk_embed(hs, given["spembs"][None])
        return hs


class Denormalize(torch.nn.Module):
    """The inverse of ESPnet's ``GlobalMVN``."""

    def __init__(self, normalize: torch.nn.Module):
        super().__init__()
        scale = normalize.std.float() if normalize.norm_vars else None
        shift = normalize.mean.float() if normalize.norm_means else None
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, dim) in the normalized domain -> in the features' own."""
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift


class Features(torch.nn.Module):
    """A model's generated features, and those before they were normalized.

    Args:
        dim: size of a frame.
        normalize: ESPnet's ``GlobalMVN``, or None.
        frames: name of their axis of frames.
    """

    def __init__(
        self, dim: int, normalize: torch.nn.Module | None, frames: str = "frames_out"
    ):
        super().__init__()
        names = ["feat_gen"] + ["feat_gen_denorm"] * (normalize is not None)
        self.outputs = {name: Tensor("float32", (frames, dim)) for name in names}
        self.inverse = None if normalize is None else Denormalize(normalize)

    def forward(self, feats: torch.Tensor) -> list[torch.Tensor]:
        """(frames, dim) -> the outputs."""
        return [feats] if self.inverse is None else [feats, self.inverse(feats)]


class DurationEncoder(Part):
    """Text to hidden states, durations, and pitch and energy where the model has them.

    And the logarithms of the durations, which ESPnet gives where it teaches the model.

    Args:
        tts: ESPnet's model.
        feature_dim: size of a frame of its features.
        eos: the id that is put behind the text, or None.
    """

    def __init__(self, tts: torch.nn.Module, feature_dim: int, eos: int | None):
        super().__init__()
        self.tts, self.eos = tts, eos
        self.idle = idle_draws(tts.encoder)
        self.conditions = Conditions(tts, feature_dim)
        self.inputs = {"text": Tensor("int64", ("tokens",)), **self.conditions.inputs}
        self.below = {"text": tts.idim, **self.conditions.below}
        self.sizes = self.conditions.sizes
        width = tts.duration_predictor.conv[0][0].in_channels
        self.outputs = {
            "hidden": Tensor("float32", ("symbols", width)),
            "duration": Tensor("int64", ("symbols",)),
            "log_duration": Tensor("float32", ("symbols",)),
        }
        self.variances = [
            name for name in ("pitch", "energy") if hasattr(tts, f"{name}_predictor")
        ]
        for name in self.variances:
            self.outputs[name] = Tensor("float32", ("symbols", 1))

    def forward(self, text: torch.Tensor, *conditions: torch.Tensor):
        """(tokens,) -> (symbols, dim), (symbols,) twice, (symbols, 1) by variance."""
        if self.eos is not None:
            text = torch.cat((text, torch.full((1,), self.eos, dtype=torch.int64)))
        hs, _ = self.tts.encoder(text[None], None)
        hs = self.conditions(hs, *conditions)
        predictor = self.tts.duration_predictor
        log_duration = predictor(hs, None)[0]
        duration = torch.round(log_duration.exp() - predictor.offset).clamp(min=0)
        variances = [
            getattr(self.tts, f"{name}_predictor")(hs, None)[0]
            for name in self.variances
        ]
        return (hs[0], duration.long(), log_duration, *variances)


class DurationDecoder(Part):
    """Hidden states to what is made of every frame.

    Args:
        tts: ESPnet's model.
        encoder: its encoder.
    """

    def __init__(self, tts: torch.nn.Module, encoder: DurationEncoder):
        super().__init__()
        # Not all of the model: what others have in common is one graph in the tests.
        self.decoder = tts.decoder
        self.embeds = torch.nn.ModuleDict(
            {name: getattr(tts, f"{name}_embed") for name in encoder.variances}
        )
        self.idle = idle_draws(tts.decoder)
        self.inputs: Mapping[str, Tensor] = {
            "hidden": encoder.outputs["hidden"],
            **{name: encoder.outputs[name] for name in self.embeds},
            "symbol_of_frame": Tensor("int64", ("frames",)),
        }
        self.below = {"symbol_of_frame": "symbols"}

    def with_variances(self, hidden, *variances: torch.Tensor) -> torch.Tensor:
        """Hidden states (1, symbols, dim) with embedded pitch and energy."""
        hs = hidden[None]
        pairs = list(zip(self.embeds.values(), variances))
        for embed, values in reversed(pairs):  # the order of ESPnet's sum
            hs = hs + embed(values.T[None]).transpose(1, 2)
        return hs


class FeatureDecoder(DurationDecoder):
    """Hidden states to features, for FastSpeech and its like.

    Args:
        tts: ESPnet's model.
        encoder: its encoder.
        normalize: ESPnet's ``GlobalMVN``, or None.
    """

    def __init__(
        self,
        tts: torch.nn.Module,
        encoder: DurationEncoder,
        normalize: torch.nn.Module | None,
    ):
        super().__init__(tts, encoder)
        self.feat_out = getattr(tts, "feat_out", None)  # none where it diffuses
        self.postnet, self.odim = tts.postnet, tts.odim
        self.features = Features(tts.odim, normalize)
        self.outputs = self.features.outputs

    def decode(self, hs: torch.Tensor) -> torch.Tensor:
        """(1, frames, dim) -> (1, frames * reduction_factor, odim)."""
        zs, _ = self.decoder(hs, None)
        return self.feat_out(zs).view(1, -1, self.odim)

    def forward(self, hidden: torch.Tensor, *others: torch.Tensor):
        """(symbols, dim), pitch, energy, index (frames,) -> features."""
        *variances, index = others
        hs = self.with_variances(hidden, *variances)[:, index]
        return tuple(self.features(with_postnet(self, self.decode(hs))[0]))


def with_postnet(tts: torch.nn.Module, feats: torch.Tensor) -> torch.Tensor:
    """Features (1, frames, dim) after the postnet, if there is one."""
    if tts.postnet is None:
        return feats
    return feats + tts.postnet(feats.transpose(1, 2)).transpose(1, 2)


class Postnet(Part):
    """What an autoregressive model does with all its frames, once it has them.

    Args:
        tts: ESPnet's model.
        postnet: its postnet, or None.
        activation: what follows the postnet, or None.
        normalize: ESPnet's ``GlobalMVN``, or None.
    """

    below: Mapping[str, int] = {}

    def __init__(
        self,
        tts: torch.nn.Module,
        postnet: torch.nn.Module | None,
        normalize: torch.nn.Module | None,
        activation: torch.nn.Module | None = None,
    ):
        super().__init__()
        self.postnet, self.activation = postnet, activation
        self.features = Features(tts.odim, normalize, "frames")
        self.inputs = {"frames": Tensor("float32", ("frames", tts.odim))}
        self.outputs = self.features.outputs

    def forward(self, frames: torch.Tensor):
        """(frames, odim) -> features."""
        feats = with_postnet(self, frames[None])[0]
        if self.activation is not None:
            feats = self.activation(feats)
        return tuple(self.features(feats))


class Convolutions(torch.nn.Module):
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
