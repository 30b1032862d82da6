#!/usr/bin/env python3
"""Measure what each optimization rule brings on this machine's onnxruntime.

For an exported bundle and one of its graphs (encoder, decoder, lm, ...), prints a table
in Markdown: the rules that match, one added after the other, with the nodes of the
written graph and the median time of one run: ten seconds of audio, ten hypotheses, one
thread. Each graph is timed in turns with the one before it, and the difference is the
median over the turns, so that a machine whose speed wanders does not favour one of the
two. On a GPU inputs and outputs stay there, and the rules that nobody has measured on
one are tried, too. Needs the extra optimize.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.optimize.editor import Editor
from espnet_onnx_plugin.optimize.fuse import count_nodes, fuse_graph
from espnet_onnx_plugin.optimize.rules.registry import Rule, apply_rules, on_trial
from espnet_onnx_plugin.quantize.half import (
    FORMATS,
    convert,
    infer_types,
    nodes_in_half,
)
from espnet_onnx_plugin.quantize.layers import gemms_to_products
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device
from espnet_onnx_plugin.runtime.core.session import open_graph
from espnet_onnx_plugin.runtime.core.values import DTYPES

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

#: Runs before the first one that counts: a GPU chooses its kernels in them.
WARM_UP = 3


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        rule: its name; empty: onnxruntime's optimizer alone; all: all of them.
        what: the rule does.
        matches: how often.
        nodes: of the written graph.
        milliseconds: of one run.
        saved: milliseconds less than without the rule; than without any, for all.
    """

    rule: str
    what: str
    matches: int | None
    nodes: int
    milliseconds: float
    saved: float | None

    def __str__(self) -> str:
        saved = "" if self.saved is None else f"{self.saved:.2f}"
        rule = f"`{self.rule}`" if self.matches is not None else self.rule
        matches = "" if self.matches is None else self.matches
        return (
            f"| {rule} | {self.what} | {matches} | {self.nodes} | "
            f"{self.milliseconds:.2f} | {saved} |"
        )


HEADER = "| rule | what | matches | nodes | ms | saves ms |\n|---|---|---|---|---|---|"


def make_feeds(
    session: ort.InferenceSession, sizes: Mapping[str, int] = SIZES
) -> dict[str, np.ndarray]:
    """Noise for tensors of floats, zeros for ids and masks, full lengths."""
    random = np.random.default_rng(0)
    feeds = {}
    for tensor in session.get_inputs():
        shape = [
            (
                axis
                if isinstance(axis, int)
                else sizes.get(axis.removeprefix("previous_"), HYPOTHESES)
            )
            for axis in tensor.shape
        ]
        if tensor.name in LENGTHS:
            value = np.full(shape, sizes[LENGTHS[tensor.name]])
        else:
            value = np.zeros(shape, DTYPES[tensor.type])
        if value.dtype.kind == "f" and "bias" not in tensor.name:
            value = (0.1 * random.standard_normal(shape)).astype(value.dtype)
        feeds[tensor.name] = value
    return feeds


def runner(
    session: ort.InferenceSession,
    feeds: Mapping[str, np.ndarray],
    device: Device,
    warm_up: int = WARM_UP,
) -> Callable[[], float]:
    """A function that runs a graph once and returns the seconds that it took.

    On a GPU inputs and outputs lie there.

    Args:
        session: the graph.
        feeds: its inputs.
        device: where it runs.
        warm_up: runs that it has here already, besides a first one.
    """
    binding = session.io_binding()
    for name, value in feeds.items():
        where = ort.OrtValue.ortvalue_from_numpy(value, device.memory, 0)
        binding.bind_ortvalue_input(name, where)
    for output in session.get_outputs():
        binding.bind_output(output.name, device.memory)
    session.run_with_iobinding(binding)
    # Outputs stay where they are now, as inputs do.
    for output, made in zip(session.get_outputs(), binding.get_outputs()):
        binding.bind_ortvalue_output(output.name, made)

    def run() -> float:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter() - start

    for _ in range(warm_up):
        run()
    return run


def compare(
    before: Path,
    after: Path,
    device: Device,
    repetitions: int,
    sizes: Mapping[str, int] = SIZES,
) -> tuple[float, float]:
    """Median milliseconds of the second graph, and by how much it is faster."""
    sessions = [open_graph(path, device) for path in (before, after)]
    feeds = make_feeds(sessions[0], sizes)
    runs = [runner(session, feeds, device) for session in sessions]
    times = np.array([[run() for run in runs] for _ in range(repetitions)])
    saved = np.median(times[:, 0] - times[:, 1])
    return float(np.median(times[:, 1]) * 1e3), float(saved * 1e3)


def write(
    source: Path, target: Path, device: Device, rules: tuple[Rule, ...], precision: str
) -> dict[str, int]:
    """Write a graph as some rules leave it; returns how often each of them matched."""
    model, counts = apply_rules(load_graph(source), device.provider, rules)
    if precision in FORMATS:
        editor = Editor(model)
        gemms_to_products(editor)
        infer_types(model)
        form = FORMATS[precision]
        convert(editor, nodes_in_half(editor.graph, form), form)
        save_graph(model, target)
    else:
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            plain = Path(work) / target.name
            save_graph(model, plain)
            fuse_graph(plain, target, device.provider)
    return counts


def measure(
    bundle: Bundle,
    role: str,
    device: Device,
    precision: str = "fp32",
    repetitions: int = 15,
    sizes: Mapping[str, int] = SIZES,
) -> Iterator[Row]:
    """Measure rule after rule on one graph.

    Args:
        bundle: the exported bundle.
        role: of the graph.
        device: where it runs.
        precision: fp32, or one of the 16-bit formats.
        repetitions: turns of each pair.
        sizes: of free axes, by name.
    """
    source = bundle.file(bundle.manifest.graphs[role].file.name)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        first = previous = work / "0.onnx"
        write(source, first, device, (), precision)
        took, _ = compare(source, first, device, repetitions, sizes)
        what, nodes = "onnxruntime's optimizer alone", count_nodes(first).total()
        yield Row("", what, None, nodes, took, None)
        rules: tuple[Rule, ...] = ()
        for rule in on_trial(device.provider):
            rules += (rule,)
            path = work / f"{len(rules)}.onnx"
            matches = write(source, path, device, rules, precision)[rule.name]
            if not matches:
                continue
            took, saved = compare(previous, path, device, repetitions, sizes)
            nodes = count_nodes(path).total()
            yield Row(rule.name, rule.what, matches, nodes, took, saved)
            previous = path
        took, saved = compare(first, previous, device, repetitions, sizes)
        yield Row("all", "", None, count_nodes(previous).total(), took, saved)


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("role")
    parser.add_argument("repetitions", nargs="?", type=int, default=15)
    parser.add_argument("--provider", default="cpu", choices=tuple(PROVIDERS))
    parser.add_argument("--precision", default="fp32", choices=("fp32", *FORMATS))
    parser.add_argument("--json", help="where the rows go as well, line by line")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Print the table."""
    args = get_parser().parse_args(cmd)
    device = Device(args.provider)
    print(
        f"### {args.role} in {args.precision} on {args.provider}, onnxruntime "
        f"{ort.__version__}\n\n{HEADER}",
        flush=True,
    )
    rows = []
    for row in measure(
        read_bundle(args.bundle), args.role, device, args.precision, args.repetitions
    ):
        print(row, flush=True)
        rows.append(asdict(row))
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
