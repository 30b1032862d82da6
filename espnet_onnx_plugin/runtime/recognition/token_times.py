"""Times of the tokens of a stream, as the tokens become certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.runtime.search.ctc_align import forced_align


@dataclass(frozen=True, eq=False)
class TokenTimes:
    """Alignment by the CTC of tokens that no longer change.

    Each call aligns what the best hypothesis has behind them, too, so that a token does
    not take the frames of those that follow. It is never changed.

    Attributes:
        spans: first frame and the one behind the last of each aligned token.
        first: frame that ``log_probs`` begin with.
        log_probs: (frames, vocabulary) behind the aligned tokens.
    """

    spans: tuple[tuple[int, int], ...] = ()
    first: int = 0
    log_probs: np.ndarray | None = None

    def followed(
        self,
        log_probs: np.ndarray,
        tokens: Sequence[int],
        certain: int,
        blank: int,
    ) -> TokenTimes:
        """Times with more frames, and of the tokens that are certain now.

        Args:
            log_probs: (frames, vocabulary) of the new frames.
            tokens: of the best hypothesis.
            certain: how many of them will not change.
            blank: id of the blank.
        """
        if self.log_probs is not None:
            log_probs = np.concatenate((self.log_probs, log_probs))
        done, first = len(self.spans), self.first
        aligned = None
        if certain > done and len(log_probs):
            aligned = forced_align(log_probs, tokens[done:], blank)
        if aligned is None:  # or more tokens than frames: these come later
            return TokenTimes(self.spans, first, log_probs)
        new = [(int(a) + first, int(b) + first) for a, b in aligned[: certain - done]]
        end = new[-1][1]
        kept = log_probs[end - first :].copy()
        return TokenTimes((*self.spans, *new), end, kept)
