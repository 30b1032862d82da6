"""A system in a process of its own: reads utterances' numbers, answers with figures.

Run as ``python -m benchmarking.worker SPEC``. SPEC is a JSON: ``system``; ``task``;
``model``, a bundle's directory or options that name ESPnet's files; ``options`` of the
search; ``threads``; ``inputs``, numpy files. Answers are JSON lines on standard output.
For task tts also: ``mkl``, how dropouts are drawn; ``waves``, where waveforms go. For
streams also: ``streams``, how many are in a file; ``sim_chunk_length``, their parts'.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from benchmarking import recognition, streaming, synthesis
from benchmarking.config import synthesizes

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb


def main() -> None:
    """Answer until standard input ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    kind = synthesis if synthesizes(spec["task"]) else recognition
    kind = streaming if "streams" in spec else kind
    opener = kind.open_pytorch if spec["system"] == "pytorch" else kind.open_bundle
    try:
        system = opener(spec)
    except PluginError as e:
        sys.exit(str(e))
    for line in sys.stdin:
        answer = kind.measure(system, np.load(spec["inputs"][int(line)]))
        answer["peak_memory_mb"] = peak_memory_mb()
        if "wav" in answer:
            path = Path(spec["waves"], f"{spec['system']}_{int(line)}.npy")
            np.save(path, answer.pop("wav"))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
