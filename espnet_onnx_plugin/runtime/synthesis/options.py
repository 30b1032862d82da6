"""ESPnet's decoding options of text-to-speech."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from espnet_onnx_plugin.bundle.typed import check_types
from espnet_onnx_plugin.errors import PluginError

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
    """Options of ``espnet2.bin.tts_inference``, with its names and defaults."""

    threshold: float = 0.5
    minlenratio: float = 0.0
    maxlenratio: float = 10.0
    use_teacher_forcing: bool = False
    use_att_constraint: bool = False
    backward_window: int = 1
    forward_window: int = 3
    speed_control_alpha: float = 1.0
    noise_scale: float = 0.667
    noise_scale_dur: float = 0.8
    seed: int = 777
    always_fix_seed: bool = False
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

    def changed(self, conf: Mapping[str, Any] | None) -> TtsOptions:
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

    def for_model(self, given: Collection[str]) -> TtsOptions:
        """These with ESPnet's defaults of the ones that it does not give the model.

        Args:
            given: those of :data:`_OF_MODELS` that it does.
        """
        defaults = {n: getattr(TtsOptions, n) for n in _OF_MODELS if n not in given}
        return dataclasses.replace(self, **defaults)

    def as_espnet(self, given: Collection[str]) -> dict[str, Any]:
        """Arguments of ESPnet's model, by its names for them."""
        named = {_IN_MODELS.get(name, name): getattr(self, name) for name in given}
        return dict(use_teacher_forcing=self.use_teacher_forcing, **named)
