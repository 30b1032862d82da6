"""A Slurm cluster of several nodes on this machine, below one directory, for tests.

By hand, until Enter is pressed::

    python tests/slurm.py DIRECTORY [NODES]
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

#: What Debian's packages slurm-wlm and munge bring.
PROGRAMS = "munged slurmctld slurmd sbatch scancel sinfo squeue".split()

#: Where Debian puts daemons, which need not be on the PATH of a user.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

#: Name of the variable by which the processes of a node are known.
MARK = "SLURM_TEST_NODE"

#: No accounting, no cgroups, and nothing outside of ``{root}``. What a job asks for is
#: counted, and one that takes more memory is ended. A node that is silent for
#: SlurmdTimeout seconds is down, and its jobs begin again on others ``requeue_s`` after
#: that; squeue knows a job for MinJobAge seconds after its end.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire={requeue_s}
CredType=cred/munge
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool.%n
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
KillWait=2
{settings}
{nodes}
PartitionName=cpu Nodes=ALL Default=YES State=UP DefMemPerCPU=100
"""
NODE = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs={} RealMemory={}"
SETTINGS = dict(SlurmdTimeout=5, MinJobAge=10, SchedulerParameters="sched_interval=2")


def missing_programs() -> list[str]:
    """Programs of a cluster that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Slurm:
    """A cluster that runs inside a ``with`` block: a controller and nodes.

    Attributes:
        env: the environment in which ``sbatch`` and its like find it.
        nodes: names of the nodes: ``node1`` and so on.

    Args:
        directory: made where it is not there; keys, state and logs go into it.
        nodes: how many; each takes all of this machine's processors for its own.
        cpus, memory_mb: of each node, as the scheduler counts.
        requeue_s: 120 where a cluster does not say otherwise.
        settings: others of ``slurm.conf``, where these are less than its defaults:
            ``SlurmdTimeout=300``, ``MinJobAge=300``.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        cpus: int = 2,
        memory_mb: int = 8000,
        requeue_s: int = 5,
        **settings: object,
    ):
        self.directory = directory.resolve()
        self.nodes = [f"node{i}" for i in range(1, nodes + 1)]
        self.size = (cpus, memory_mb)
        self.requeue_s = requeue_s
        self.settings = {**SETTINGS, **settings}
        self.env = {
            **os.environ,
            "PATH": PATH,
            "SLURM_CONF": str(self.directory / "slurm.conf"),
        }
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Slurm:
        for name in ("state", *(f"spool.{node}" for node in self.nodes)):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._configure()
        try:
            self._start_munged()
            self._start("slurmctld", ["slurmctld", "-D"])
            for node in self.nodes:
                self.start_node(node)
            self.wait_until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def run(self, *command: str) -> str:
        """Standard output of one of Slurm's commands."""
        done = subprocess.run(
            command,
            env=self.env,
            check=True,
            timeout=60,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, for the first time or after its death."""
        command = ["slurmd", "-D", "-N", node]
        self._start(node, command, **{MARK: f"{self.directory}:{node}"})

    def kill_node(self, node: str) -> None:
        """End all that runs on a node at once, as a power cut does."""
        daemon = self._daemons.pop(node)
        kill_all(self._processes(node) | {daemon.pid})
        daemon.wait()

    def states(self) -> dict[str, str]:
        """State of each node, as sinfo calls it: ``idle``, ``mixed``, ``allocated``,
        ``down`` and others, with ``*`` where the node does not answer.
        """
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def jobs_on(self, node: str) -> int:
        """How many jobs run on a node."""
        command = ["squeue", "-h", "-t", "running", "-w", node]
        return len(self.run(*command).splitlines())

    def wait_until_idle(self, timeout_s: float = 60) -> None:
        """Wait until every node of the cluster is idle.

        Raises:
            TimeoutError: with the ends of the daemons' logs.
        """
        states: dict[str, str] = {}
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if any(d.poll() is not None for d in self._daemons.values()):
                break
            try:
                states = self.states()
            except (subprocess.SubprocessError, ValueError):
                pass  # the controller does not answer yet
            if states == dict.fromkeys(self.nodes, "idle"):
                return
            time.sleep(0.2)
        raise TimeoutError(f"Slurm's nodes are {states}, not idle:\n{self.logs()}")

    def logs(self, lines: int = 10) -> str:
        """The last lines of each log of the cluster."""
        said = []
        for path in sorted(self.directory.glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace")
            said += [f"== {path.name}", *text.splitlines()[-lines:]]
        return "\n".join(said)

    def stop(self) -> None:
        """End every daemon and every job."""
        for node in self.nodes:
            kill_all(self._processes(node))
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        port, *ports = free_ports(1 + len(self.nodes))
        rows = [
            NODE.format(node, host, node_port, *self.size)
            for node, node_port in zip(self.nodes, ports)
        ]
        config = CONFIG.format(
            root=self.directory,
            host=host,
            port=port,
            user=os.getuid(),
            requeue_s=self.requeue_s,
            settings="\n".join(f"{k}={v}" for k, v in self.settings.items()),
            nodes="\n".join(rows),
        )
        (self.directory / "slurm.conf").write_text(config)
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _start_munged(self) -> None:
        kept = {"key": "key", "pid": "pid", "seed": "seed", "log": "log"}
        options = [f"--{k}-file={self.directory}/munge.{v}" for k, v in kept.items()]
        address = self.directory / "munge.socket"
        # --force: a directory above this one may be another user's, as /tmp.
        force = ["--force", "--foreground", f"--socket={address}"]
        self._start("munged", ["munged", *force, *options])
        end = time.monotonic() + 20
        while not address.exists():
            if time.monotonic() > end or self._daemons["munged"].poll() is not None:
                raise TimeoutError(f"munged did not start:\n{self.logs()}")
            time.sleep(0.05)

    def _start(self, name: str, command: list[str], **env: str) -> None:
        with open(self.directory / f"{name}.out.log", "ab") as out:
            self._daemons[name] = subprocess.Popen(
                command,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt of the tests is not for it
            )

    def _processes(self, node: str) -> set[int]:
        """Ids of a node's daemon, of the steps that it has started, and of all that
        these have started: a job has an environment of its own.
        """
        mark = f"{MARK}={self.directory}:{node}\0".encode()
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


if __name__ == "__main__":
    with Slurm(Path(sys.argv[1]), *map(int, sys.argv[2:])) as cluster:
        print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}", flush=True)
        sys.stdin.readline()
