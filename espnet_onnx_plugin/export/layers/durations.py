"""Models that predict how long each symbol lasts, and spread it over the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.layers.conditions import Conditions
from espnet_onnx_plugin.export.layers.draws import unused_draws
from espnet_onnx_plugin.export.layers.generated_features import (
    GeneratedFeatures,
    with_postnet,
)
from espnet_onnx_plugin.export.tts_module import TTSModule


class ScoreEncoder(TTSModule):
    """Notes to hidden states and durations, for models that sing.

    Args:
        svs: ESPnet's model.
        names: of its inputs, see :class:`~espnet_onnx_plugin.bundle.ScoreInputs`.
    """

    def __init__(self, svs: torch.nn.Module, names: Sequence[str]):
        super().__init__()
        self.inputs = {name: Tensor("int64", ("symbols",)) for name in names}
        self.count = len(names)
        self.conditions = Conditions(svs, svs.odim)
        self.inputs.update(self.conditions.inputs)
        self.duration_predictor = svs.duration_predictor
        width = svs.duration_predictor.conv[0][0].in_channels
        self.outputs = {
            "hidden": Tensor("float32", ("symbols", width)),
            "duration": Tensor("int64", ("symbols",)),
        }

    def hidden(self, *ids: torch.Tensor) -> torch.Tensor:
        """(1, symbols) each -> (1, symbols, dim), before the singer is added."""
        raise NotImplementedError

    def forward(self, *values: torch.Tensor):
        """Ids (symbols,) and conditions -> (symbols, dim), (symbols,)."""
        ids = [value[None] for value in values[: self.count]]
        hs = self.conditions(self.hidden(*ids), *values[self.count :])
        return hs[0], predicted_durations(self.duration_predictor, hs)[0]


def predicted_durations(
    predictor: torch.nn.Module, hs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """ESPnet's ``DurationPredictor``: (1, symbols, dim) -> frames, and their logarithm.

    Both are (symbols,).
    """
    log_duration = predictor(hs, None)[0]
    duration = torch.round(log_duration.exp() - predictor.offset).clamp(min=0)
    return duration.long(), log_duration


class DurationEncoder(TTSModule):
    """Text to hidden states, durations, and pitch and energy where the model has them.

    The logarithms of the durations are outputs too: ESPnet gives them with teacher
    forcing.

    Args:
        tts: ESPnet's model.
        feature_dim: size of a frame of its features.
        eos: the id that is put behind the text, or None.
    """

    def __init__(self, tts: torch.nn.Module, feature_dim: int, eos: int | None):
        super().__init__()
        self.tts, self.eos = tts, eos
        self.unused_draws = unused_draws(tts.encoder)
        self.conditions = Conditions(tts, feature_dim)
        self.inputs = {"text": Tensor("int64", ("tokens",)), **self.conditions.inputs}
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
        durations = predicted_durations(self.tts.duration_predictor, hs)
        variances = [
            getattr(self.tts, f"{name}_predictor")(hs, None)[0]
            for name in self.variances
        ]
        return (hs[0], *durations, *variances)


class DurationDecoder(TTSModule):
    """Hidden states to what is made of every frame.

    Args:
        tts: ESPnet's model.
        encoder: its encoder.
    """

    def __init__(self, tts: torch.nn.Module, encoder: DurationEncoder | ScoreEncoder):
        super().__init__()
        # Not all of the model: what others have in common is one graph in the tests.
        self.decoder = tts.decoder
        self.embeds = torch.nn.ModuleDict(
            {
                name: getattr(tts, f"{name}_embed")
                for name in getattr(encoder, "variances", ())
            }
        )
        self.unused_draws = unused_draws(tts.decoder)
        self.inputs: Mapping[str, Tensor] = {
            "hidden": encoder.outputs["hidden"],
            **{name: encoder.outputs[name] for name in self.embeds},
            "symbol_of_frame": Tensor("int64", ("frames",)),
        }

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
        encoder: DurationEncoder | ScoreEncoder,
        normalize: torch.nn.Module | None,
    ):
        super().__init__(tts, encoder)
        self.feat_out = getattr(tts, "feat_out", None)  # none where it diffuses
        self.postnet, self.odim = tts.postnet, tts.odim
        self.features = GeneratedFeatures(tts.odim, normalize)
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
