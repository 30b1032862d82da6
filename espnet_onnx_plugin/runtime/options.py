"""ESPnet's decoding options."""

import numbers
from collections import abc
from dataclasses import dataclass
from typing import Any, Dict, Mapping, get_args, get_origin, get_type_hints

from espnet_onnx_plugin.errors import PluginError

#: How a value is told to be of a type, by the type; numpy's numbers are numbers.
_ABSTRACT = {int: numbers.Integral, float: numbers.Real}


def check_types(options_class: type, options: Mapping[str, Any]) -> None:
    """Refuse options of another type than the class says.

    Args:
        options_class: a data class.
        options: values by name; names that are not the class's are passed over.

    Raises:
        PluginError: naming the option, its value and what it has to be.
    """
    hints = get_type_hints(options_class)
    for name in hints.keys() & options.keys():
        value, known = options[name], get_args(hints[name]) or (hints[name],)
        if get_origin(hints[name]) is abc.Mapping:
            known = (abc.Mapping,)
        if Any in known or any(_is_of(value, one) for one in known):
            continue
        names = " or ".join(one.__name__.replace("NoneType", "None") for one in known)
        raise PluginError(f"{name} {value!r} must be of type {names}")


def _is_of(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool):  # no number
        return wanted is bool
    return isinstance(value, _ABSTRACT.get(wanted, wanted))


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
