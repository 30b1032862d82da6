"""A Slurm cluster of several nodes on this machine, below one directory, for tests.

By hand, until Enter is pressed::

    python tests/slurm.py DIRECTORY [NODES]
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from daemons import PATH, free_ports, kill_all, last_lines, processes_with, start, stop

#: What Debian's packages slurm-wlm and munge bring.
PROGRAMS = "munged slurmctld slurmd sbatch scancel sinfo squeue".split()

#: Name of the variable by which the processes of a node are known.
MARK = "SLURM_TEST_NODE"

#: No accounting, no cgroups, and nothing outside of ``{root}``. What a job asks for is
#: counted, and one that takes more memory is ended. A node that is silent for
#: SlurmdTimeout seconds is down, and its jobs begin again on others ``requeue_s`` after
#: that; squeue knows a job for MinJobAge seconds after its end. Jobs get no environment
#: of a login shell, which sbatch --export=PATH asks for and some users' takes a minute.
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
GetEnvTimeout=0
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
        directory: made where it is not there; keys, state and logs go into it, in the
            place of an earlier cluster's.
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
            # An earlier cluster's state has nodes that are idle on other ports.
            shutil.rmtree(self.directory / name, ignore_errors=True)
            (self.directory / name).mkdir(parents=True)
        for log in self.directory.glob("*.log"):
            log.unlink()
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

    def logs(self) -> str:
        """The last lines of each log of the cluster."""
        return last_lines(list(self.directory.glob("*.log")))

    def stop(self) -> None:
        """End every daemon and every job."""
        for node in self.nodes:
            kill_all(self._processes(node))
        for daemon in reversed(self._daemons.values()):
            stop(daemon)
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
        environments = self.directory / "state/env_cache"
        environments.mkdir()
        user = pwd.getpwuid(os.getuid()).pw_name
        (environments / user).write_text(f"HOME={Path.home()}\nUSER={user}\n")
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
        log = self.directory / f"{name}.out.log"
        self._daemons[name] = start(log, command, {**self.env, **env})

    def _processes(self, node: str) -> set[int]:
        return processes_with(MARK, f"{self.directory}:{node}")


if __name__ == "__main__":
    with Slurm(Path(sys.argv[1]), *map(int, sys.argv[2:])) as cluster:
        print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}", flush=True)
        sys.stdin.readline()
