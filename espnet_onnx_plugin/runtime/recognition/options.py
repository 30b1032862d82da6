"""ESPnet's decoding options."""

from dataclasses import dataclass
from typing import Dict

from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class DecodeOptions:
    """Those that tasks have in common, with ESPnet's names and defaults.

    Attributes:
        ctm: whether results come with the times of tokens and words; not of ESPnet's.
    """

    maxlenratio: float = 0.0
    minlenratio: float = 0.0
    beam_size: int = 20
    ctc_weight: float = 0.5
    lm_weight: float = 1.0
    ngram_weight: float = 0.9
    penalty: float = 0.0
    nbest: int = 1
    normalize_length: bool = False
    ctm: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.ctc_weight <= 1.0:
            raise PluginError(f"ctc_weight {self.ctc_weight} must lie between 0 and 1")
        if self.nbest < 1:
            raise PluginError(f"nbest {self.nbest} must be 1 or more")

    @property
    def weights(self) -> Dict[str, float]:
        """Weight of each scorer, in ESPnet's order."""
        return dict(
            decoder=1.0 - self.ctc_weight,
            ctc=self.ctc_weight,
            length_bonus=self.penalty,
            lm=self.lm_weight,
            ngram=self.ngram_weight,
        )
