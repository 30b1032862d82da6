"""A system in a process of its own: reads utterances' numbers, answers with figures.

Run as ``python -m benchmarking.worker SPEC``. SPEC is a JSON: ``system``; ``task``;
``model``, a bundle's directory or options that name ESPnet's files; ``options`` of the
search; ``threads``; ``inputs``, numpy files, or of songs JSON. It may also hold
``provider`` and ``session``, where it runs, and ``modules`` that are imported before
the first number comes, at which the system is opened. Answers are JSON lines on
standard output. For tasks tts and svs also: ``mkl``, how dropouts are drawn; ``waves``,
where waveforms go, as for task enh, which has ``fs`` too. For streams also:
``streams``, how many are in a file; ``sim_chunk_length``, their parts'. For batches
also: ``batches``, ``search`` or ``greedy``; the files hold several arrays.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking import recognition, separation, streaming, synthesis
from benchmarking.config import separates, synthesizes

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb


def _read(path: Path) -> Any:
    """An array, or a song as ESPnet's class takes it."""
    if path.suffix != ".json":
        return np.load(path)
    song = json.loads(path.read_text(encoding="utf-8"))
    times, phones = song["label"]
    return {**song, "score": tuple(song["score"]), "label": (np.array(times), phones)}


def main() -> None:
    """Answer until standard input ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    kind = synthesis if synthesizes(spec["task"]) else recognition
    kind = separation if separates(spec["task"]) else kind
    kind = streaming if "streams" in spec else kind
    if "batches" in spec:  # not imported where starts are timed
        kind = importlib.import_module("benchmarking.batches")
    opener = kind.open_pytorch if isinstance(spec["model"], dict) else kind.open_bundle
    for module in spec.get("modules", ()):
        importlib.import_module(module)
    system = None
    for line in sys.stdin:
        try:
            system = system or opener(spec)
            answer = kind.measure(system, _read(Path(spec["inputs"][int(line)])))
        except PluginError as e:
            sys.exit(str(e))
        answer["peak_memory_mb"] = peak_memory_mb()
        if "wav" in answer:
            path = Path(spec["waves"], f"{spec['system']}_{int(line)}.npy")
            np.save(path, answer.pop("wav"))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
