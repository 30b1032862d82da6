"""Systems side by side: one process each, one utterance at a time, in turn."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarking.models import environment, last_line
from benchmarking.settings import BaseSetting, Run

from espnet_onnx_plugin.errors import PluginError

T = TypeVar("T")


class Worker:
    """A process with one system.

    Args:
        spec: See benchmarking/worker.py.
        run: What its answers are.
        log: Of what it prints.
    """

    def __init__(self, spec: Mapping[str, Any], run: type[Run], log: Path):
        self._system, self._run, self._log = spec["system"], run, log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarking.worker", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                encoding="utf-8",
                env=environment(spec["threads"]),
            )

    def run(self, utterance: int) -> Run:
        """Recognize or synthesize one of the utterances of the worker's spec.

        Raises:
            PluginError: If the process has ended.
        """
        try:
            print(utterance, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # what it has to say stands in its log
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            reason = last_line(self._log)
            raise PluginError(f"{self._system}: {reason} (log: {self._log})")
        return self._run(**json.loads(answer))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        # It waits for a number, or somebody is impatient.
        self._process.kill()
        self._process.communicate()


def in_turn(items: Sequence[T], turn: int) -> list[T]:
    """Return the items with another one first in each turn."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def measure(
    setting: BaseSetting, specs: Mapping[str, Mapping[str, Any]], logs: Path
) -> dict[str, tuple[list[float], list[list[Run]]]]:
    """Measure the starts and runs of several systems.

    Args:
        setting: Number of starts and runs.
        specs: Of the workers, by system; all with the same inputs.
        logs: Directory of their logs.

    Returns:
        By system: seconds from starting a process to its first result; what was run, by
        run and utterance.
    """
    logs.mkdir(parents=True, exist_ok=True)
    systems = list(specs)
    starts: dict[str, list[float]] = {system: [] for system in systems}
    runs: dict[str, list[list[Run]]] = {system: [] for system in systems}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for number in range(setting.starts):
            for system in in_turn(systems, number):
                begin = time.perf_counter()
                log = logs / f"{system}.log"
                worker = Worker(specs[system], setting.RUN, log)
                with contextlib.ExitStack() as until_run:
                    until_run.enter_context(worker)
                    worker.run(0)  # for those that stay also the warm-up
                    starts[system].append(time.perf_counter() - begin)
                    if number == setting.starts - 1:
                        until_run.pop_all()
                        workers[system] = stack.enter_context(worker)
        utterances = len(specs[systems[0]]["inputs"])
        for number in range(setting.repeats):
            for system in systems:
                runs[system].append([])
            for utterance in range(utterances):
                for system in in_turn(systems, number + utterance):
                    runs[system][-1].append(workers[system].run(utterance))
    return {system: (starts[system], runs[system]) for system in systems}
