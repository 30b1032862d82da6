"""Part: models with random weights and their bundles, each in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarking.models import (
    environment,
    last_line,
    make_bundles,
    make_random_model,
)
from gpu_checking.job import VARIANTS, Job, Model

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.report.tables import MIB


def models(job: Job) -> None:
    """Make all models at once, and write a row for each that is made."""
    names = list(dict.fromkeys(job.sizes.models.values()))
    threads = max((os.cpu_count() or 1) // len(names), 1)
    makers = {}
    for name in names:
        model = Model(job, name)
        model.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "gpu_checking.models", name, job.to_json()]
        with open(model.directory / "make.log", "wb") as log:
            makers[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment(threads)
            )
    while makers:
        for name in [name for name in makers if makers[name].poll() is not None]:
            makers.pop(name)
            _tell(Model(job, name), job)
        time.sleep(0.1)


def _tell(model: Model, job: Job) -> None:
    made = model.made()
    if made is None:  # it crashed
        write_whole(model.state, "{}")
        made = dict.fromkeys(VARIANTS, last_line(model.directory / "make.log"))
    size = None
    with contextlib.suppress(PluginError):
        size = model.bundle("fp32").size / MIB
    job.add(
        **{"model": model.name, "fp32 MiB": size},
        **{k: v if isinstance(v, str) else f"{v:.0f} s" for k, v in made.items()},
    )


def make(model: Model) -> None:
    """Make a model and its bundles in this process, unless they are there.

    A bundle that cannot be made is written down with its reason, and the others are
    made all the same.
    """
    model.forget_failures()
    if model.made() is not None:
        return
    made: dict[str, float | str] = {}
    log = model.directory / "make.log"

    def run_here(_: Path, module: str, *args: object) -> None:
        try:
            importlib.import_module(module).main(list(map(str, args)))
        except SystemExit as e:
            if e.code:
                raise PluginError(last_line(log))

    files = make_random_model(
        model.config.model, model.directory / "model", log, run_here
    )
    bundles = model.directory / "bundles"
    for variant in VARIANTS:
        start = time.perf_counter()
        try:
            make_bundles(
                files,
                [variant],
                bundles,
                model.directory,
                model.job.provider,
                run_here,
            )
            made[variant] = round(time.perf_counter() - start, 1)
        except PluginError as e:
            made[variant] = str(e)
    write_whole(model.state, json.dumps(made))


def make_alone(args: argparse.Namespace) -> None:
    """Make a model when no other process makes it any more."""
    model = Model(args.job, args.name)
    with open(model.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make(model)


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point of the process that makes a model."""
    parser = argparse.ArgumentParser(prog="models")
    parser.add_argument("name")
    parser.add_argument("job", type=Job.from_json)
    parser.set_defaults(log_level="INFO")
    run(parser, make_alone, cmd)


if __name__ == "__main__":
    main()
