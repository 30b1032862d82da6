#!/usr/bin/env python3
"""Measure what each optimization rule brings on this machine's onnxruntime.

Usage: scripts/measure_rules.py BUNDLE ROLE [REPETITIONS]   (needs the extra optimize)

For an exported bundle and one of its graphs (encoder, decoder, lm, ...), prints a table
in Markdown: the rules that match, one added after the other, with the nodes after
onnxruntime's own optimizer and the median time of one run: ten seconds of audio, ten
hypotheses, one thread. Each graph is timed in turns with the one before it, and the
difference is the median over the turns, so that a machine whose speed wanders does not
favour one of the two.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.optimize.fuse import count_nodes, fuse_graph
from espnet_onnx_plugin.optimize.rules.registry import RULES, Rule, apply_rules
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import open_graph

#: Sizes of free axes; the others are hypotheses.
HYPOTHESES = 10
SIZES = dict(
    utterances=1,
    samples=160000,
    frames_in=1001,
    frames=249,
    kept=200,
    nodes=200,
    seen=200 + HYPOTHESES,
)
LENGTHS = dict(
    speech_lengths="samples", feats_lengths="frames_in", encoder_out_lens="frames"
)


def make_feeds(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    """Noise for tensors of floats, zeros for ids and masks, full lengths."""
    random = np.random.default_rng(0)
    feeds = {}
    for tensor in session.get_inputs():
        shape = [
            (
                axis
                if isinstance(axis, int)
                else SIZES.get(axis.removeprefix("previous_"), HYPOTHESES)
            )
            for axis in tensor.shape
        ]
        if tensor.name in LENGTHS:
            value = np.full(shape, SIZES[LENGTHS[tensor.name]])
        elif tensor.type == "tensor(float)" and "bias" not in tensor.name:
            value = 0.1 * random.standard_normal(shape).astype(np.float32)
        else:
            dtype = {"tensor(int64)": np.int64, "tensor(bool)": np.bool_}
            value = np.zeros(shape, dtype.get(tensor.type, np.float32))
        feeds[tensor.name] = value
    return feeds


def seconds(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start


def measure(before: Path, after: Path, repetitions: int) -> tuple[float, float]:
    """Median milliseconds of the second graph, and by how much it is faster."""
    sessions = [open_graph(path, Device()) for path in (before, after)]
    feeds = make_feeds(sessions[0])
    for session in sessions:
        session.run(None, feeds)
    times = np.array(
        [[seconds(s, feeds) for s in sessions] for _ in range(repetitions)]
    )
    return np.median(times[:, 1]) * 1e3, np.median(times[:, 0] - times[:, 1]) * 1e3


def main(bundle: str, role: str, repetitions: str = "15") -> None:
    """Print the table."""
    model = read_bundle(bundle)
    source = model.file(model.manifest.graphs[role].file.name)
    exported = load_graph(source)
    with tempfile.TemporaryDirectory() as work:

        def build(rules: tuple[Rule, ...]) -> tuple[Path, dict[str, int]]:
            path = Path(work) / f"{len(rules)}.onnx"
            rewritten, counts = apply_rules(exported, "cpu", rules)
            save_graph(rewritten, path)
            optimized = Path(work) / f"{len(rules)}_optimized.onnx"
            fuse_graph(path, optimized, "cpu")
            return optimized, counts

        first = previous = build(())[0]
        print(f"### {role}, onnxruntime {ort.__version__}\n")
        print("| rule | what | matches | nodes | ms | saves ms |")
        print("|---|---|---|---|---|---|")
        took, _ = measure(source, first, int(repetitions))
        nodes = f"{count_nodes(source).total()} -> {count_nodes(first).total()}"
        print(f"| | onnxruntime's optimizer alone | | {nodes} | {took:.1f} | |")
        rules: tuple[Rule, ...] = ()
        for rule in (rule for rule in RULES if "cpu" in rule.providers):
            rules += (rule,)
            path, counts = build(rules)
            if not counts[rule.name]:
                continue
            took, saved = measure(previous, path, int(repetitions))
            print(
                f"| `{rule.name}` | {rule.what} | {counts[rule.name]} | "
                f"{count_nodes(path).total()} | {took:.1f} | {saved:.1f} |",
                flush=True,
            )
            previous = path
        took, saved = measure(first, previous, int(repetitions))
        print(
            f"| all | | | {count_nodes(previous).total()} | {took:.1f} | {saved:.1f} |"
        )


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
