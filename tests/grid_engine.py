"""A Grid Engine of one node on this machine, below one directory, for tests.

By hand, until Enter is pressed::

    python tests/grid_engine.py DIRECTORY
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from daemons import PATH, free_ports, kill_all, last_lines, processes_with, start

#: What Debian's packages gridengine-master, -exec and -client bring.
PROGRAMS = "sge_qmaster sge_execd qconf qsub qstat qdel qhost".split()

#: Where they have what is not a command, and what a cluster begins with.
LIBRARY = Path("/usr/lib/gridengine")
SHARED = Path("/usr/share/gridengine")

#: Name of the variable by which the processes of the node are known.
MARK = "GRID_ENGINE_TEST_NODE"

#: Grid Engine names a host by what its address says, which is the machine's loopback.
HOST = "localhost"

BOOTSTRAP = """\
admin_user none
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params {root}/spool/db
binary_path {root}/bin
qmaster_spool_dir {root}/spool/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""

#: Where these differ from Debian's: root may have jobs, and all goes fast.
CONFIGURATION = dict(
    execd_spool_dir="{root}/spool/execd",
    min_uid=0,
    min_gid=0,
    load_report_time="00:00:02",
)
SCHEDULER = dict(
    schedule_interval="0:0:1",
    flush_submit_sec=1,
    flush_finish_sec=1,
    job_load_adjustments="NONE",
)

#: What a job may ask for besides what Grid Engine knows of itself, as ESPnet's
#: conf/queue.conf does: memory is counted where a site has set up ram_free.
COMPLEXES = """\
ram_free ram_free MEMORY <= YES YES 0 0
gpu gpu INT <= YES YES 0 0
"""
NODE = """\
hostname {host}
load_scaling NONE
complex_values ram_free={memory_mb}M
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""
PARALLEL = """\
pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves TRUE
job_is_first_task TRUE
urgency_slots min
accounting_summary TRUE
qsort_args NONE
"""
QUEUE = {
    "qname": "all.q",
    "hostlist": HOST,
    "seq_no": "0",
    "nsuspend": "1",
    "suspend_interval": "00:05:00",
    "priority": "0",
    "min_cpu_interval": "00:05:00",
    "processors": "UNDEFINED",
    "qtype": "BATCH",
    "pe_list": "smp",
    "rerun": "FALSE",
    "tmpdir": "/tmp",
    "shell": "/bin/bash",
    "shell_start_mode": "posix_compliant",
    "notify": "00:00:60",
    "initial_state": "default",
    **dict.fromkeys(
        "load_thresholds suspend_thresholds ckpt_list prolog epilog starter_method "
        "suspend_method resume_method terminate_method owner_list user_lists "
        "xuser_lists subordinate_list complex_values projects xprojects "
        "calendar".split(),
        "NONE",
    ),
    **{
        f"{kind}_{limit}": "INFINITY"
        for limit in "rt cpu fsize data stack core rss vmem".split()
        for kind in "sh"
    },
}


def missing_programs() -> list[str]:
    """Programs of a cluster that are not installed here."""
    found = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return found + [str(path) for path in (LIBRARY, SHARED) if not path.is_dir()]


class GridEngine:
    """A cluster that runs inside a ``with`` block: a master and a node.

    Attributes:
        env: the environment in which ``qsub`` and its like find it.

    Args:
        directory: made where it is not there; state and logs go into it, in the place
            of an earlier cluster's.
        slots: how many jobs of one thread run at once.
        memory_mb: of ``ram_free``, as the scheduler counts.
    """

    def __init__(self, directory: Path, slots: int = 2, memory_mb: int = 8000):
        self.directory = directory.resolve()
        self.slots, self.memory_mb = slots, memory_mb
        ports = free_ports(2)
        self.env = {
            **os.environ,
            "PATH": PATH,
            "SGE_ROOT": str(self.directory),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(ports[0]),
            "SGE_EXECD_PORT": str(ports[1]),
            "SGE_ND": "1",  # daemons stay in the foreground
        }
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> GridEngine:
        self._configure()
        try:
            self._start("qmaster")
            self._wait("the master", lambda: bool(self.run("qconf", "-sm")))
            # Submit host, then what a job may ask for.
            self.run("qconf", "-as", HOST)
            self._apply("-Mc", self.run("qconf", "-sc") + COMPLEXES)
            self._apply("-Ap", PARALLEL)
            scheduler = changed(self.run("qconf", "-ssconf"), SCHEDULER)
            self._apply("-Msconf", scheduler)
            self.start_node()
            self._wait("its node", lambda: HOST in self.run("qconf", "-sel"))
            node = NODE.format(host=HOST, memory_mb=self.memory_mb)
            self._apply("-Me", node)
            queue = {**QUEUE, "slots": self.slots}
            self._apply("-Aq", "".join(f"{k} {v}\n" for k, v in queue.items()))
            # A node is used when it has said how much memory it has.
            self._wait("its node", lambda: "mem_free" in self.run("qhost", "-F"))
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
        """Standard output of one of Grid Engine's commands.

        Raises:
            subprocess.CalledProcessError: if it fails.
        """
        done = subprocess.run(
            command,
            env=self.env,
            check=True,
            timeout=60,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout

    def start_node(self) -> None:
        """Start the node, for the first time or after its death."""
        self._start("execd", **{MARK: str(self.directory)})

    def kill_node(self) -> None:
        """End all that runs on the node at once, as a power cut does."""
        daemon = self._daemons.pop("execd")
        kill_all(self._processes() | {daemon.pid})
        daemon.wait()

    def kill_jobs(self, module: str) -> bool:
        """End all jobs that run a Python module, as the kernel does without memory.

        Returns:
            Whether there were any.
        """
        found = {p for p in self._processes() if _runs(p, module)}
        kill_all(found)
        return bool(found)

    def jobs(self) -> list[list[str]]:
        """Words of qstat on each job: id, priority, name, user, state and more."""
        return [line.split() for line in self.run("qstat").splitlines()[2:]]

    def delete_jobs(self) -> None:
        """Delete all jobs, as their owner may, or the administrator."""
        with contextlib.suppress(subprocess.CalledProcessError):  # there may be none
            self.run("qdel", "-u", "*")

    def wait_until_idle(self) -> None:
        """Wait until there are no jobs."""
        self._wait("its last job", lambda: not self.jobs())

    def stop(self) -> None:
        """End every daemon and every job."""
        # At once: the master takes its time to end, for a state that none reads again.
        kill_all(self._processes() | {d.pid for d in self._daemons.values()})
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()

    def _configure(self) -> None:
        for name in ("spool", "default", "bin", "lib", "utilbin"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
            (self.directory / name).mkdir(parents=True)
        architecture = subprocess.run(
            [SHARED / "util/arch"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("bin", "lib", "utilbin"):
            (self.directory / name / architecture).symlink_to(LIBRARY)
        util = self.directory / "util"
        util.unlink(missing_ok=True)
        util.symlink_to(SHARED / "util")
        for name in ("qmaster/job_scripts", "db", "execd"):
            (self.directory / "spool" / name).mkdir(parents=True)
        common = self.directory / "default/common"
        common.mkdir()
        names = {socket.gethostname(), socket.getfqdn()} - {HOST}
        files = {
            "bootstrap": BOOTSTRAP.format(root=self.directory),
            "act_qmaster": HOST,
            "host_aliases": " ".join([HOST, *sorted(names)]),
        }
        for name, text in files.items():
            (common / name).write_text(text.rstrip() + "\n")
        values = {
            name: str(value).format(root=self.directory)
            for name, value in CONFIGURATION.items()
        }
        configuration = self.directory / "configuration"
        text = (SHARED / "default-configuration").read_text()
        configuration.write_text(changed(text, values))
        centry = SHARED / "util/resources/centry"
        usersets = SHARED / "util/resources/usersets"
        first = [LIBRARY / "spoolinit", "berkeleydb", "libspoolb"]
        defaults = LIBRARY / "spooldefaults"
        self.run(*map(str, first), str(self.directory / "spool/db"), "init")
        self.run(str(defaults), "configuration", str(configuration))
        self.run(str(defaults), "complexes", str(centry))
        self.run(str(defaults), "usersets", str(usersets))
        self.run(str(defaults), "managers", os.environ.get("USER", "root"))

    def _apply(self, option: str, text: str) -> None:
        file = self.directory / f"qconf{option}"
        file.write_text(text)
        self.run("qconf", option, str(file))

    def _start(self, name: str, **env: str) -> None:
        program = shutil.which(f"sge_{name}", path=PATH)
        log = self.directory / f"{name}.out.log"
        self._daemons[name] = start(log, [str(program)], {**self.env, **env})

    def _wait(self, what, ready, timeout_s: float = 60) -> None:
        """Wait for something of the cluster.

        Raises:
            TimeoutError: with the ends of the daemons' logs.
        """
        said = ""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if any(d.poll() is not None for d in self._daemons.values()):
                break
            try:
                if ready():
                    return
            except subprocess.SubprocessError as e:
                said = getattr(e, "output", None) or str(e)  # it does not answer yet
            time.sleep(0.2)
        logs = [*self.directory.glob("*.log"), *self.directory.glob("spool/*/messages")]
        raise TimeoutError(f"Grid Engine: no {what}: {said}\n{last_lines(logs)}")

    def _processes(self) -> set[int]:
        return processes_with(MARK, str(self.directory))


def changed(configuration: str, values: dict) -> str:
    """A configuration, a name and its value in a line, with other values."""
    lines = []
    for line in configuration.splitlines():
        name = line.partition(" ")[0]
        lines.append(f"{name} {values[name]}" if name in values else line)
    return "\n".join(lines) + "\n"


def _runs(pid: int, module: str) -> bool:
    """Whether a process is that of a Python module; not where it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-m", module.encode()]


if __name__ == "__main__":
    with GridEngine(Path(sys.argv[1])) as cluster:
        for name in ("ROOT", "CELL", "QMASTER_PORT", "EXECD_PORT"):
            print(f"export SGE_{name}={cluster.env[f'SGE_{name}']}", flush=True)
        sys.stdin.readline()
