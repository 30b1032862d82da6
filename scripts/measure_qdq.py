#!/usr/bin/env python3
"""Measure what 8-bit integers and floats bring an encoder on a GPU.

An encoder's graph is written in fp32, in fp16, and with its products and convolutions
quantized between QuantizeLinear and DequantizeLinear, the form that GPUs are given:
symmetric int8, and float8 (E4M3). Each is timed on each provider, and its outputs are
held against those of fp32. Inputs are noise, on which the ranges are measured, too. A
row that a provider cannot run says why. Needs the extra optimize.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from measure_rules import SIZES, compare, make_feeds, write
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from espnet_onnx_plugin.bundle import Bundle, read_bundle, weights_path
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.optimize.rules.registry import RULES
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device
from espnet_onnx_plugin.runtime.core.session import open_graph

#: What is quantized.
OPERATORS = ["MatMul", "Gemm", "Conv"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        form: of the graph.
        provider: where it ran.
        milliseconds: of one run.
        speed: times that of fp32 on the same provider.
        difference: of its outputs from those of fp32, relative to their scale.
        megabytes: of the graph and its weights.
        failed: why it did not run; empty where it did.
    """

    form: str
    provider: str
    milliseconds: float | None = None
    speed: float | None = None
    difference: float | None = None
    megabytes: float | None = None
    failed: str = ""

    def __str__(self) -> str:
        if self.failed:
            return f"| {self.form} | {self.provider} | | | | | {self.failed} |"
        return (
            f"| {self.form} | {self.provider} | {self.milliseconds:.2f} | "
            f"{self.speed:.2f} | {self.difference:.1e} | {self.megabytes:.1f} | |"
        )


HEADER = (
    "| form | provider | ms | x fp32 | difference | MB | failed |\n"
    "|---|---|---|---|---|---|---|"
)


class _Noise(CalibrationDataReader):
    """Inputs on which the ranges of tensors are measured: one batch."""

    def __init__(self, feeds: Mapping[str, np.ndarray]):
        self._feeds = iter([dict(feeds)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        return next(self._feeds, None)


def quantized(
    source: Path, target: Path, feeds: Mapping[str, np.ndarray], kind: QuantType
) -> None:
    """Write a graph with its products and convolutions between Q and DQ."""
    is_float = kind == QuantType.QFLOAT8E4M3FN
    method = CalibrationMethod.Distribution if is_float else CalibrationMethod.MinMax
    quantize_static(
        str(source),
        str(target),
        _Noise(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=OPERATORS,
        per_channel=not is_float,
        activation_type=kind,
        weight_type=kind,
        calibrate_method=method,
        use_external_data_format=True,
        # TensorRT takes no zero points.
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )


def forms(
    source: Path, work: Path, feeds: Mapping[str, np.ndarray], cpu: Device
) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Names of the forms, and functions that write them."""
    gpu_rules = tuple(rule for rule in RULES if "cuda" in rule.providers)
    on_cpu = tuple(
        rule for rule in gpu_rules if "cpu" in rule.providers and not rule.for_floats
    )

    def plain(precision: str) -> Path:
        write(source, work / f"{precision}.onnx", cpu, on_cpu, precision)
        return work / f"{precision}.onnx"

    def qdq(name: str, kind: QuantType) -> Path:
        quantized(work / "fp32.onnx", work / f"{name}.onnx", feeds, kind)
        return work / f"{name}.onnx"

    yield "fp32", lambda: plain("fp32")
    yield "fp16", lambda: plain("fp16")
    yield "int8 QDQ", lambda: qdq("int8", QuantType.QInt8)
    yield "fp8 QDQ", lambda: qdq("fp8", QuantType.QFLOAT8E4M3FN)


def measure(
    bundle: Bundle,
    role: str = "encoder",
    providers: Sequence[str] = ("cpu",),
    repetitions: int = 15,
    sizes: Mapping[str, int] = SIZES,
) -> Iterator[Row]:
    """Measure form after form of one graph, on one provider after the other.

    Args:
        bundle: the exported bundle.
        role: of the graph.
        providers: where it runs.
        repetitions: turns of each form with fp32.
        sizes: of free axes, by name.
    """
    source = bundle.file(bundle.manifest.graphs[role].file.name)
    cpu = Device()
    feeds = make_feeds(open_graph(source, cpu), sizes)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for form, make in forms(source, work, feeds, cpu):
            try:
                path = make()
            except Exception as e:  # of onnxruntime's quantizer, which has many
                yield from (Row(form, name, failed=_line(e)) for name in providers)
                continue
            for name in providers:
                try:
                    yield _row(form, work / "fp32.onnx", path, name, repetitions, sizes)
                except Exception as e:  # onnxruntime's exceptions have no common base
                    yield Row(form, name, failed=_line(e))


def _row(
    form: str,
    fp32: Path,
    path: Path,
    provider: str,
    repetitions: int,
    sizes: Mapping[str, int],
) -> Row:
    device = Device(provider)
    took, saved = compare(fp32, path, device, repetitions, sizes)
    sessions = [open_graph(graph, device) for graph in (path, fp32)]
    feeds = make_feeds(sessions[1], sizes)
    ours, expected = (session.run(None, feeds) for session in sessions)
    worst = max(
        difference(a, b)
        for a, b in zip(ours, expected, strict=True)
        if b.dtype == np.float32
    )
    files = [file for file in (path, weights_path(path)) if file.exists()]
    files += path.parent.glob(f"{path.name}.data")
    size = sum(file.stat().st_size for file in files) / 1e6
    return Row(form, provider, took, (took + saved) / took, worst, size)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("role", nargs="?", default="encoder")
    parser.add_argument("repetitions", nargs="?", type=int, default=15)
    parser.add_argument(
        "--provider",
        action="append",
        choices=tuple(PROVIDERS),
        help="where it runs; may be given several times (default: cpu)",
    )
    parser.add_argument("--json", help="where the rows go as well")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Print the table."""
    args = get_parser().parse_args(cmd)
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises
    print(f"### {args.role}, onnxruntime {ort.__version__}\n\n{HEADER}", flush=True)
    rows = []
    for row in measure(
        read_bundle(args.bundle), args.role, args.provider or ("cpu",), args.repetitions
    ):
        print(row, flush=True)
        rows.append(asdict(row))
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
