"""ESPnet's decoding options of models that speak or sing."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from espnet_onnx_plugin.bundle.typed import check_types, option
from espnet_onnx_plugin.errors import PluginError

OptionsT = TypeVar("OptionsT", bound="TtsOptions")

#: Options that ESPnet's models call by another name.
_IN_MODELS = {"speed_control_alpha": "alpha"}

#: Options that ESPnet gives to some models only.
_OF_MODELS = (
    "threshold",
    "minlenratio",
    "maxlenratio",
    "use_att_constraint",
    "backward_window",
    "forward_window",
    "speed_control_alpha",
    "noise_scale",
    "noise_scale_dur",
)


@dataclasses.dataclass(frozen=True)
class TtsOptions:
    """Options of ``tts_inference``, with the names and defaults of ESPnet's class.

    Those that ``option`` makes are the command's too
    (:func:`~espnet_onnx_plugin.bundle.typed.option`).

    Attributes:
        prefer_normalized_feats: whether features are given as the model makes them,
            where they could be denormalized.
    """

    maxlenratio: float = option(10.0, "most frames per symbol")
    minlenratio: float = option(0.0, "fewest frames per symbol")
    threshold: float = option(0.5, "probability of the stop")
    use_att_constraint: bool = option(False, "attention has to move forward")
    backward_window: int = option(1, "of the constraint")
    forward_window: int = option(3, "of the constraint")
    use_teacher_forcing: bool = option(
        False, "durations, or frames, are those of given speech"
    )
    speed_control_alpha: float = option(1.0, "above 1 is slower")
    noise_scale: float = option(0.667, "of VITS' flow")
    noise_scale_dur: float = option(0.8, "of VITS' durations")
    seed: int = option(777, "of all that is drawn", command=0)
    always_fix_seed: bool = option(False, "begin every utterance with the seed")
    prefer_normalized_feats: bool = False

    def __post_init__(self) -> None:
        if not self.speed_control_alpha > 0:
            raise PluginError(
                f"speed_control_alpha {self.speed_control_alpha} must be above 0"
            )
        if self.maxlenratio <= 0 or self.minlenratio > self.maxlenratio:
            raise PluginError(
                f"maxlenratio {self.maxlenratio} must be above 0, and minlenratio "
                f"{self.minlenratio} not above it"
            )

    def changed(self: OptionsT, conf: Mapping[str, Any] | None) -> OptionsT:
        """These with others for a call, by the names of the command or the models.

        Raises:
            PluginError: if one is unknown or of another type.
        """
        names = {theirs: ours for ours, theirs in _IN_MODELS.items()}
        named = {names.get(name, name): value for name, value in (conf or {}).items()}
        check_types(type(self), named)
        try:
            return dataclasses.replace(self, **named)
        except TypeError as e:
            raise PluginError(f"decode_conf: {e}")

    def for_model(self: OptionsT, given: Collection[str]) -> OptionsT:
        """These with ESPnet's defaults of the ones that it does not give the model.

        Args:
            given: those of :data:`_OF_MODELS` that it does.
        """
        usual = {n: getattr(type(self), n) for n in _OF_MODELS if n not in given}
        return dataclasses.replace(self, **usual)

    def as_espnet(self, given: Collection[str]) -> dict[str, Any]:
        """Arguments of ESPnet's model, by its names for them."""
        named = {_IN_MODELS.get(name, name): getattr(self, name) for name in given}
        return dict(use_teacher_forcing=self.use_teacher_forcing, **named)


@dataclasses.dataclass(frozen=True)
class SvsOptions(TtsOptions):
    """Options of ``svs_inference``, of which the command has fewer than the class.

    Attributes:
        discrete_token_layers, mix_type: of what a vocoder of discrete tokens reads.
    """

    maxlenratio: float = 10.0
    minlenratio: float = 0.0
    threshold: float = 0.5
    use_att_constraint: bool = False
    use_dynamic_filter: bool = False
    backward_window: int = 2
    forward_window: int = 4
    speed_control_alpha: float = 1.0
    always_fix_seed: bool = False
    use_teacher_forcing: bool = option(
        False, "what of the song is known is that of given singing"
    )
    discrete_token_layers: int = option(1, "tokens of a frame")
    mix_type: str = option("frame", "order of several tokens: frame or sequence")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discrete_token_layers < 1:
            raise PluginError(
                f"discrete_token_layers {self.discrete_token_layers} must be 1 or more"
            )
        if self.mix_type not in ("frame", "sequence"):
            raise PluginError(f"mix_type '{self.mix_type}' must be frame or sequence")
