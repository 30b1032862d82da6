"""Error counts in the result.txt of a scoring stage."""

from __future__ import annotations

import re
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts

# The first line of a result.txt that the stand-in wrote.
STAND_IN = "Scored by jiwer in the place of sclite"

# The raw-count table of "sclite -o all": | Sum | # Snt # Wrd | Corr Sub Del Ins Err
# S.Err |. The percentages ("Sum/Avg") carry one decimal only.
RAW_SUM = re.compile(r"^\s*\|\s*Sum\s*\|" + r"[\s|]*(\d+)" * 8 + r"\s*\|\s*$", re.M)


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
