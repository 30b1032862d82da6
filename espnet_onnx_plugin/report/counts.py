"""Error counts, and where they are read from: the result.txt of a scoring stage."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError

# The first line of a result.txt that the stand-in wrote.
STAND_IN = "Scored by jiwer in the place of sclite"

# The raw-count table of "sclite -o all": | Sum | # Snt # Wrd | Corr Sub Del Ins Err
# S.Err |. The percentages ("Sum/Avg") carry one decimal only.
RAW_SUM = re.compile(r"^\s*\|\s*Sum\s*\|" + r"[\s|]*(\d+)" * 8 + r"\s*\|\s*$", re.M)


@dataclass(frozen=True)
class ErrorCounts:
    """What an alignment of hypotheses with references counts."""

    sentences: int = 0
    words: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    sentence_errors: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ErrorCounts(*map(sum, pairs))

    @property
    def errors(self) -> int:
        """Return the sum of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return the error rate in percent of the reference's words."""
        if not self.words:
            raise PluginError("no error rate: the references hold no words")
        return 100 * self.errors / self.words


def read_result(path: Path) -> tuple[ErrorCounts, str]:
    """Read a result.txt of sclite or its stand-in.

    Returns:
        The counts over all speakers, and the scorer's name.

    Raises:
        PluginError: Where the raw counts are missing or do not add up.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    match = RAW_SUM.search(text)
    if match is None:
        raise PluginError(f"{path}: no raw counts ('Sum'): run scoring again")
    sentences, words, *rest, errors, sentence_errors = map(int, match.groups())
    counts = ErrorCounts(sentences, words, *rest, sentence_errors)
    if counts.errors != errors or counts.correct + sum(rest[1:3]) != words:
        raise PluginError(f"{path}: the raw counts do not add up: run scoring again")
    scorer = "jiwer" if text.startswith(STAND_IN) else "sclite"
    return counts, scorer
