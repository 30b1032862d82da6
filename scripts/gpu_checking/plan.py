"""A plan: the parts that run, for how long, and what is kept of those that fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarking.models import environment, last_line
from gpu_checking.results import OK, PartResult, Results, Row

#: Seconds between two looks at what a part has written.
POLL = 0.3

#: Seconds kept at the end, to write what there is.
RESERVE = 5.0


@dataclass(frozen=True)
class Part:
    """A part of the check, a process of its own.

    Attributes:
        name: Its name, and that of the function in ``module``.
        module: Of gpu_checking.
        title: Heading of its table.
        least: Seconds with which it is worth its start.
        most: Seconds after which it is ended.
        needs: Models that it waits for.
        background: Whether the next parts begin beside it.
        timed: Whether it waits until no other part runs, for it measures times.
    """

    name: str
    module: str
    title: str
    least: float
    most: float
    needs: tuple[str, ...] = ()
    background: bool = False
    timed: bool = False


#: Makes the command of a part: it is given the file of its rows and its seconds.
Command = Callable[[Part, Path, float], Sequence[str]]


class Running:
    """A part's process.

    Args:
        part: The part.
        command: What runs it.
        rows: The file that it appends its rows to, a JSON each line.
        log: Of what it prints.
        limit: Seconds after which it is ended.
        result: What its rows and its status are put into.
    """

    def __init__(
        self,
        part: Part,
        command: Sequence[str],
        rows: Path,
        log: Path,
        limit: float,
        result: PartResult,
    ):
        self.part, self._rows, self._log = part, rows, log
        self._result, self._limit = result, limit
        for path in (rows, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_bytes(b"")
        self._start = time.monotonic()
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(os.cpu_count() or 1),
                start_new_session=True,  # so that its own processes end with it
            )

    def poll(self) -> bool:
        """Take in what it has written; return whether it has ended."""
        code, seconds = self._process.poll(), time.monotonic() - self._start
        cut = code is None and seconds >= self._limit
        ended = cut or code is not None
        if ended:
            self.end()  # with what it may have left behind
        rows = list(self._read())
        if ended or rows != self._result.rows:
            self._result.rows, self._result.seconds = rows, round(seconds, 1)
        if cut:
            self._result.status = "cut: time"
        elif ended:
            self._result.status = OK if code == 0 else f"failed: {self._reason(code)}"
        return ended

    def _reason(self, code: int) -> str:
        if code < 0:
            return f"ended by signal {-code} ({last_line(self._log)})"
        return last_line(self._log)

    def _read(self) -> Iterator[Row]:
        for line in self._rows.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that is being written
                yield json.loads(line)

    def end(self) -> None:
        """End its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Check:
    """Run parts one after the other within a time, and keep what they give.

    Args:
        parts: In the order of their worth.
        results: What they give.
        seconds: Time for all.
        work_dir: Of rows and logs.
        command: Makes a part's command.
        decided: Whether a model is made, or will not be.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        results: Results,
        seconds: float,
        work_dir: Path,
        command: Command,
        decided: Callable[[str], bool] = lambda model: True,
    ):
        self._parts, self._results, self._work_dir = parts, results, work_dir
        self._command, self._decided = command, decided
        self._end = time.monotonic() + seconds - RESERVE
        self._running: list[Running] = []

    @property
    def _left(self) -> float:
        return self._end - time.monotonic()

    def run(self) -> None:
        """Run the parts; the results tell how it went."""
        try:
            for part in self._parts:
                result = self._results.begin(part.name, part.title)
                while self._left >= part.least and self._must_wait(part):
                    self._tick()
                if self._left < part.least:
                    result.status = "not run: time"
                    continue
                running = self._start(part, result)
                while not part.background and running in self._running:
                    self._tick()
            while self._running:
                self._tick()
        finally:
            for running in self._running:
                running.end()
            self._results.write()

    def _start(self, part: Part, result: PartResult) -> Running:
        limit = min(part.most, self._left)
        rows = self._work_dir / "rows" / f"{part.name}.jsonl"
        log = self._work_dir / "log" / f"{part.name}.log"
        command = self._command(part, rows, limit)
        running = Running(part, command, rows, log, limit, result)
        self._running.append(running)
        return running

    def _must_wait(self, part: Part) -> bool:
        """Whether a part waits for its models, or for quiet to measure times in."""
        undecided = not all(self._decided(model) for model in part.needs)
        return bool(self._running) and (part.timed or undecided)

    def _tick(self) -> None:
        self._running = [running for running in self._running if not running.poll()]
        self._results.write()
        if self._running:
            time.sleep(POLL)
