"""Daemons of a cluster that tests start: their ports, their processes, their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Where Debian puts daemons, which need not be on the PATH of a user.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def start(
    log: Path, command: Sequence[str], env: Mapping[str, str]
) -> subprocess.Popen:
    """Start a daemon that stays in the foreground, and add what it says to ``log``."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt of the tests is not for it
        )


def stop(daemon: subprocess.Popen) -> None:
    """Ask a daemon to end, and end it where it does not."""
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def processes_with(name: str, value: str) -> set[int]:
    """Ids of the processes with a variable in their environment, and of all that these
    have started: a job has an environment of its own.
    """
    mark = f"{name}={value}\0".encode()
    found, parents = set(), {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(path.name)
            stat = (path / "stat").read_text(errors="replace")
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
            if mark in (path / "environ").read_bytes():
                found.add(pid)
        except OSError:  # it has ended, or is another user's
            continue
    new = found
    while new:
        new = {p for p, parent in parents.items() if parent in new} - found
        found |= new
    return found - {os.getpid()}


def kill_all(processes: set[int]) -> None:
    """Stop processes, so that none of them sees another's end, then end them."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in processes:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def free_ports(count: int) -> list[int]:
    """Numbers of TCP ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def last_lines(paths: Sequence[Path], lines: int = 10) -> str:
    """The ends of logs, each after its name."""
    said = []
    for path in sorted(paths):
        text = path.read_text(encoding="utf-8", errors="replace")
        said += [f"== {path.name}", *text.splitlines()[-lines:]]
    return "\n".join(said)
