"""The quality that a quantized bundle has to keep, and how much it takes to keep it."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.options import TokenBudget as Budget
from espnet_onnx_plugin.evaluate.quality import (
    Reading,
    error_rate,
    identical,
    token_agreement,
)

logger = logging.getLogger(__name__)

#: After this time a solution that holds is not made smaller any more.
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Quality:
    """A reading in figures: error rates in percent, shares of 1."""

    utterances: int
    identical: int
    token_agreement: float
    wer_fp32: Optional[float] = None
    wer: Optional[float] = None

    @staticmethod
    def of(
        reading: Reading,
        reference: Reading,
        transcripts: Optional[Sequence[Mapping[str, str]]],
    ) -> "Quality":
        """Compare a reading with fp32's."""
        rates: Dict[str, float] = {}
        if transcripts is not None:
            rates["wer_fp32"] = error_rate(reference, transcripts)
            rates["wer"] = error_rate(reading, transcripts)
        return Quality(
            utterances=len(reference),
            identical=identical(reading, reference),
            token_agreement=token_agreement(reading, reference),
            **rates,
        )

    #: Tokens can always be compared.
    measured = True

    def within(self, budget: Budget) -> bool:
        """Whether a budget holds."""
        if self.wer is not None and self.wer_fp32 is not None:
            # An allowance of 0.1 is not exceeded by 0.1, whatever the rounding.
            if not self.wer - self.wer_fp32 <= budget.max_wer_increase + 1e-9:
                return False
        return self.token_agreement >= budget.min_token_agreement

    def __str__(self) -> str:
        agreement = f"{100 * self.token_agreement:.2f} % of fp32's tokens"
        if self.wer is None:
            return agreement
        return f"WER {self.wer_fp32:.2f} % in fp32, now {self.wer:.2f} %; {agreement}"

    def as_dict(self) -> Dict[str, Any]:
        """For the manifest."""
        figures = {k: v for k, v in vars(self).items() if v is not None}
        return {k: round(v, 5) for k, v in figures.items()}


def fewest(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest number up to ``count`` that holds, taking it that more also hold.

    It doubles, then bisects.

    Raises:
        PluginError: if not even ``count`` holds.
    """
    low, high = 0, min(1, count)
    start = time.monotonic()
    while not holds(high):
        if high == count:
            raise PluginError(
                "the budget does not hold even with every layer in fp32; nothing was "
                "written"
            )
        low, high = high, min(2 * high, count)
    while high - low > 1 and time.monotonic() - start < MAX_SECONDS:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
