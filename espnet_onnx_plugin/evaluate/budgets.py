"""Budgets: how much quantization may cost, as options of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from espnet_onnx_plugin.bundle.typed import option
from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class Budget:
    """Limits of what quantization may cost, named as bin.quantize's options.

    Attributes:
        title: of the group that they are in its help, if any.
    """

    title: ClassVar[str | None] = None


@dataclass(frozen=True)
class TokenBudget(Budget):
    """Limits for a task whose results are tokens.

    The error rate is without effect where there are no transcripts.
    """

    max_wer_increase: float = option(
        0.1, "how much the error rate may rise, in absolute percent"
    )
    min_token_agreement: float = option(
        0.99,
        "share of the tokens that have to be fp32's, which also holds sets without "
        "transcripts or too small for an error rate",
    )

    def __post_init__(self) -> None:
        if not self.max_wer_increase >= 0:
            raise PluginError(
                f"max_wer_increase {self.max_wer_increase} must be 0 or more"
            )
        if not 0 <= self.min_token_agreement <= 1:
            raise PluginError(
                f"min_token_agreement {self.min_token_agreement} must lie between 0 "
                "and 1"
            )


@dataclass(frozen=True)
class SpeechBudget(Budget):
    """Limits for synthesized speech, against fp32 with the same noise."""

    max_mcd: float = option(1.0, "mel-cepstral distortion in dB")
    max_log_f0_rmse: float = option(
        0.1, "root mean square error of the natural logarithm of F0"
    )
    max_cer_increase: float = option(
        0.5,
        "how much the character error rate may rise where an ASR model scores the "
        "speech, in absolute percent",
    )

    title = "The budget of tasks tts and svs, against fp32"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise PluginError(f"{name} {value} must be 0 or more")


@dataclass(frozen=True)
class SeparationBudget(Budget):
    """Limits for enhanced speech, against clean speech where there is some."""

    max_si_snr_decrease: float = option(
        0.1, "how much the mean ratio to the clean speech may fall, in dB"
    )
    max_stoi_decrease: float = option(
        0.005, "how much the mean intelligibility by it (STOI) may fall"
    )
    min_agreement: float = option(
        20.0, "mean ratio in dB to the speech of fp32, where there is no clean speech"
    )

    title = "The budget of task enh, in scale-invariant signal-to-noise ratios"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise PluginError(f"{name} {value} must be 0 or more")


@dataclass(frozen=True)
class DiarizationBudget(Budget):
    """Limits for diarization, and separation by it, against fp32."""

    min_activity_agreement: float = option(
        0.99,
        "share of the speakers' activities, frame by frame, that have to be fp32's",
    )
    min_separation_agreement: float = option(
        20.0,
        "mean ratio in dB to the separated speech of fp32, where there are as many "
        "speakers",
    )

    title = "The budget of tasks diar and enh_diar, against fp32"

    def __post_init__(self) -> None:
        if not 0 <= self.min_activity_agreement <= 1:
            raise PluginError(
                f"min_activity_agreement {self.min_activity_agreement} must lie "
                "between 0 and 1"
            )
        if not self.min_separation_agreement >= 0:
            raise PluginError(
                f"min_separation_agreement {self.min_separation_agreement} must be 0 "
                "or more"
            )


#: The budget of every kind of task.
BUDGETS: Sequence[type[Budget]] = (
    TokenBudget,
    SpeechBudget,
    SeparationBudget,
    DiarizationBudget,
)
