"""BLEU, and where it is read from: the result files of a translation's scoring."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class Bleu:
    """BLEU of a test set, 0 to 100, and what sacrebleu says of how it counted."""

    score: float
    signature: str


def read_bleu(path: Path) -> Bleu:
    """Read a result file that ESPnet's ``st.sh`` has sacrebleu write.

    A title stands before each JSON list of metrics. Where a test set has several
    references, the list with all of them comes last and is the one that is taken.

    Raises:
        PluginError: Where the file holds no BLEU.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    found = None
    start = text.find("[")
    while start >= 0:
        try:
            metrics, end = json.JSONDecoder().raw_decode(text, start)
            [bleu] = [m for m in metrics if m["name"] == "BLEU"]
            found = Bleu(float(bleu["score"]), str(bleu["signature"]))
        except (KeyError, TypeError, ValueError):
            end = start + 1
        start = text.find("[", end)
    if found is None:
        raise PluginError(f"{path}: no BLEU of sacrebleu 2 or newer: run scoring again")
    return found
