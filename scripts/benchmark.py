#!/usr/bin/env python3
"""Measure ESPnet's own inference and the bundles of one model, side by side.

Usage: scripts/benchmark.py --config conf/benchmark/NAME.yaml --output_dir DIR
(needs the extras export, optimize and report; see the README)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import re
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarking import drive, models, waveforms
from benchmarking.benchmark_report import (
    describe_agreement,
    describe_distance,
    write_report,
)
from benchmarking.config import (
    Config,
    RandomModel,
    read_config,
    separates,
    sings,
    synthesizes,
)
from benchmarking.measurement import Distance, Measurement, Outcome
from benchmarking.settings import (
    REFERENCE,
    BaseSetting,
    Decode,
    SeparationSetting,
    StreamSetting,
)

import espnet_onnx_plugin
from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import add_log_level, str2bool
from espnet_onnx_plugin.bundle import MANIFEST, sha256
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE
from espnet_onnx_plugin.files import write_whole

# Packages by what they are imported as, and where their versions are worth telling.
PACKAGES = {
    "espnet2": "espnet",
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "numpy": "numpy",
}
NEEDED = {**PACKAGES, **{name: name for name in ("jiwer", "matplotlib", "onnxscript")}}
# Variants that give PyTorch's results, or are wrong.
EXACT = ("fp32", "optimized")
# What decides how fast a CPU multiplies small numbers.
CPU_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")


def get_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="benchmark",
        description="Measure ESPnet's own inference and bundles side by side",
    )
    parser.add_argument("--config", type=Path, required=True, help="what to measure")
    parser.add_argument("--output_dir", type=Path, required=True, help="of the results")
    parser.add_argument(
        "--resume",
        type=str2bool,
        default=True,
        help="keep the settings that an earlier run has finished (default: true)",
    )
    add_log_level(parser)
    return parser


def check_packages(config: Config) -> None:
    """Refuse where a package is missing."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise PluginError(
            f"the benchmark needs {', '.join(missing)}: "
            "pip install -e '.[export,optimize,report]'"
        )


def machine() -> dict[str, str]:
    """Return what the figures depend on besides the model: CPU and versions."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        cpuinfo = ""
    name = re.search(r"^model name\s*: (.*)$", cpuinfo, re.M)
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo, re.M)
    present = [f for f in CPU_FLAGS if flags and f in flags[1].split()]
    cpu = name[1] if name else platform.processor() or platform.machine()
    versions = [f"{name} {_version(name)}" for name in PACKAGES.values()]
    versions.append(f"espnet_onnx_plugin {espnet_onnx_plugin.__version__}")
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores ({' '.join(present)})",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout, or onnxruntime-gpu
        return "(version unknown)"


class Benchmark:
    """The systems of a configuration, ready to be measured.

    Args:
        config: What to measure.
        output_dir: Of models, logs and results; what is up to date in it is kept.
    """

    def __init__(self, config: Config, output_dir: Path):
        self._config, self._output_dir = config, output_dir
        self._logs = output_dir / "log"
        self.machine = machine()
        logging.info("making the model's bundles, logs: %s", self._logs)
        if isinstance(config.model, RandomModel):
            self._checkpoints = models.make_random_model(
                config.model, output_dir / "model", self._logs / "model.log"
            )
        else:
            self._checkpoints = config.model
        self._speech = synthesizes(self._checkpoints.task)
        self._separates = separates(self._checkpoints.task)
        self._mkl = self._speech and models.dropouts_are_of_mkl()
        variants = {v for setting in config.settings for v in setting.variants}
        self._bundles = models.make_bundles(
            self._checkpoints,
            variants,
            output_dir / "bundles",
            self._logs,
            config.provider,
        )

    def outcome(self, setting: BaseSetting, resume: bool) -> Outcome:
        """Measure a setting, or return what an earlier run measured."""
        slug = re.sub(r"[^a-z0-9.]+", "_", setting.name.lower()).strip("_")
        path = self._output_dir / "settings" / f"{slug}.json"
        inputs = self._inputs(setting)
        origin = self._origin(setting, inputs)
        if resume and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["origin"] == origin:
                logging.info("%s: measured before, see %s", setting.name, path)
                return Outcome.from_json(content["outcome"])
        logs = self._logs / slug
        specs = {n: self._spec(n, setting, inputs, logs) for n in setting.variants}
        measured = drive.measure(setting, specs, logs)
        measurements = []
        for name in setting.variants:
            starts, runs = measured[name]
            seconds = inputs.seconds or sum(one.audio_seconds for one in runs[0])
            far = self._distance(name, setting, len(inputs.files), logs)
            size = self._size(name)
            measurements.append(Measurement(name, size, seconds, starts, runs, far))
        date = time.strftime("%Y-%m-%d")
        outcome = Outcome(setting, date, inputs.references, measurements)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"origin": origin, "outcome": outcome.to_json()}
        write_whole(path, json.dumps(content, indent=1) + "\n")
        return outcome

    def _inputs(self, setting: BaseSetting) -> models.Inputs:
        bundle, directory = self._bundles["fp32"], self._output_dir / "inputs"
        seconds, data = setting.audio_seconds, self._config.data
        if isinstance(setting, SeparationSetting):
            return models.make_mixture(setting, directory)
        if self._speech:
            if sings(self._checkpoints.task):
                return models.make_song(seconds, bundle, directory)
            if seconds is not None:
                return models.make_text(seconds, bundle, directory)
            return models.choose_text(data, bundle, directory)
        speech = bundle.manifest.speech
        if seconds is not None:
            streams = getattr(setting, "streams", 1)
            return models.make_noise(seconds, speech, directory, streams)
        return models.choose_data(data, speech, directory)

    def _distance(
        self, name: str, setting: BaseSetting, utterances: int, waves: Path
    ) -> Distance | None:
        """Compare the waveforms with the reference's, if there are any.

        On a GPU there is nothing to compare: PyTorch draws other noise there.
        """
        if name == REFERENCE or REFERENCE not in setting.variants:
            return None
        if self._config.provider != "cpu" and not self._separates:
            return None
        if not self._speech and not self._separates:
            return None
        reference, other = (
            [waves / f"{system}_{number}.npy" for number in range(utterances)]
            for system in (REFERENCE, name)
        )
        if self._separates:
            return waveforms.distance_of_separated(reference, other)
        rate = self._bundles["fp32"].manifest.synthesis.sampling_rate
        return waveforms.distance(reference, other, rate)

    def _origin(self, setting: BaseSetting, inputs: models.Inputs) -> dict[str, Any]:
        """Return all that decides what a setting measures, as plain data."""
        origin = {
            "setting": dataclasses.asdict(setting),
            "machine": self.machine,
            # fp32's manifest names the digests of PyTorch's files.
            "bundles": {
                name: sha256(bundle.path / MANIFEST)
                for name, bundle in self._bundles.items()
                if name in ("fp32", *setting.variants)
            },
            "inputs": [sha256(path) for path in inputs.files],
            "references": inputs.references,
            "code": [sha256(path) for path in sorted(models.measured_code())],
        }
        return json.loads(json.dumps(origin))

    def _spec(
        self, name: str, setting: BaseSetting, inputs: models.Inputs, waves: Path
    ) -> dict[str, Any]:
        """Return what a worker is told, see benchmarking/worker.py."""
        if name == REFERENCE:
            with_lm = bool(getattr(setting, "lm_weight", 0.0))
            model: Any = self._checkpoints.espnet_options(with_lm)
        else:
            model = str(self._bundles[name].path)
        spec = {
            "system": name,
            "task": self._checkpoints.task,
            "model": model,
            "options": setting.search_options,
            "threads": setting.threads,
            "provider": self._config.provider,
            "inputs": [str(path) for path in inputs.files],
        }
        if isinstance(setting, StreamSetting):
            spec["streams"] = setting.streams
            spec["sim_chunk_length"] = setting.sim_chunk_length
        if isinstance(setting, SeparationSetting):
            piece = setting.piece_seconds
            samples = None if piece is None else max(round(piece * setting.fs), 1)
            return {**spec, "fs": setting.fs, "piece": samples, "waves": str(waves)}
        return {**spec, "mkl": self._mkl, "waves": str(waves)} if self._speech else spec

    def _size(self, name: str) -> int:
        if name != REFERENCE:
            return self._bundles[name].size
        return sum(path.stat().st_size for path in self._checkpoints.weights)


def show(outcome: Outcome) -> None:
    """Print a setting's figures, one line for each system."""
    print(outcome.setting.name)
    for m in outcome.measurements:
        line = f"  {m.system:10} {m.median:8.3f} s, RTF {m.rtf:.3f}"
        if outcome.reference not in (None, m):
            line += f", {outcome.reference.median / m.median:.2f}x, "
            agreement = outcome.agreement(m)
            line += describe_agreement(agreement) if agreement else ""
            line += describe_distance(m.distance) if m.distance else ""
        print(line)


def check_results(outcomes: Sequence[Outcome]) -> None:
    """Refuse bundles in full precision with hypotheses or waveforms of their own."""
    for outcome in outcomes:
        if outcome.reference is None:
            logging.warning(
                "%s: nothing is compared with PyTorch, which is not among its variants",
                outcome.setting.name,
            )
    wrong = [
        f"{m.system} in '{outcome.setting.name}'"
        for outcome in outcomes
        for m in outcome.measurements
        if m.system in EXACT and is_different(outcome, m)
    ]
    if wrong:
        run = outcomes[0].setting.RUN
        results = "hypotheses" if issubclass(run, Decode) else "waveforms"
        raise PluginError(
            f"other {results} than PyTorch's: {', '.join(wrong)}: check the bundles "
            "(bin.verify), the figures are of no use"
        )


def is_different(outcome: Outcome, measurement: Measurement) -> bool:
    """Return whether a system gives something else than the reference."""
    distance = measurement.distance
    if distance is not None:
        figure = distance.difference
        return figure is None or not figure <= WAVEFORM_TOLERANCE
    agreement = outcome.agreement(measurement)
    return agreement is not None and agreement.different > 0


def benchmark(args: argparse.Namespace) -> None:
    """Measure every setting and write the tables."""
    config = read_config(args.config)
    check_packages(config)
    outcomes = []
    try:
        systems = Benchmark(config, args.output_dir)
        for setting in config.settings:
            logging.info("measuring: %s", setting.name)
            outcomes.append(systems.outcome(setting, args.resume))
            show(outcomes[-1])
    except KeyboardInterrupt:
        raise PluginError(
            f"interrupted; finished settings ({len(outcomes)}) are kept in "
            f"{args.output_dir}, the same command goes on"
        )
    facts = {
        "configuration": args.config.name,
        **({"test data": config.data.describe()} if config.data else {}),
        "date": ", ".join(dict.fromkeys(outcome.date for outcome in outcomes)),
        **systems.machine,
        "threads": ", ".join(
            dict.fromkeys(str(setting.threads) for setting in config.settings)
        ),
    }
    write_report(args.output_dir, config.title, facts, outcomes)
    print(f"wrote {args.output_dir}/RESULTS.md, results.csv and plots")
    check_results(outcomes)


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), benchmark, cmd)


if __name__ == "__main__":
    main()
