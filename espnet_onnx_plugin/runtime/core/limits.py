"""Bounds of a job: the memory that an utterance may take.

Before a graph runs on much, the least that it needs is worked out. It needs more, and
there is more than graphs: so onnxruntime and numpy are kept from taking more than there
is, and the request that goes beyond fails, with its size, before the kernel ends the
process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.graph_errors import GraphError, MemoryNeeded
from espnet_onnx_plugin.runtime.core.proc import allowed, field, mapped, read

#: Part of the free memory that a job leaves: page tables, files that are being read.
MARGIN = 0.05

#: How onnxruntime says that there is no memory; one tells the size.
_FAILED = re.compile(
    r"Failed to allocate memory for requested buffer of size (\d+)"
    r"|Failed to allocate memory|bad_alloc|bad allocation"
)

#: Sizes from here on are cgroup's "no limit".
_UNLIMITED = 2**60

_GIB = 2**30


class Free(NamedTuple):
    """Memory that is there for this process.

    Attributes:
        bytes: how much.
        where: of what, for a message.
    """

    bytes: int
    where: str


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _cgroups(root: Path) -> Iterator[Path]:
    """Directories of the groups whose memory is this process's, innermost first."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # In a container the names may be those outside, of which only the root is seen.
        inside = Path(name.lstrip("/"))
        for at in (inside, *inside.parents):
            yield base / at


def _free_in_cgroup(directory: Path) -> int | None:
    """Bytes that a group may still take, cached files let go; None without a limit."""
    limit = _number(read(directory / "memory.max"))
    used = _number(read(directory / "memory.current"))
    prefix = ""
    if limit is None:
        limit = _number(read(directory / "memory.limit_in_bytes"))
        used = _number(read(directory / "memory.usage_in_bytes"))
        prefix = "total_"
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    stat = read(directory / "memory.stat")
    files = (field(stat, f"{prefix}{kind}_file") for kind in ("active", "inactive"))
    return limit - used + sum(size or 0 for size in files)


def _slurm_limit(environment: Mapping[str, str]) -> int | None:
    """Bytes of a job on this node, which Slurm may hold without a cgroup, too."""
    node = _number(environment.get("SLURM_MEM_PER_NODE", ""))
    if node is None:
        each = _number(environment.get("SLURM_MEM_PER_CPU", ""))
        cpus = _number(environment.get("SLURM_CPUS_ON_NODE", ""))
        node = None if each is None or cpus is None else each * cpus
    return node * 2**20 if node else None  # 0: all of the node's


def free_memory(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> Free | None:
    """The least that machine, cgroups and Slurm leave; None where the system is silent.

    Args:
        root: where ``proc`` and ``sys`` are.
        environment: of the process.
    """
    found = []
    machine = field(read(root / "proc/meminfo"), "MemAvailable")
    if machine is not None:
        found.append(Free(machine, "on this machine"))
    for directory in _cgroups(root):
        left = _free_in_cgroup(directory)
        if left is not None:
            found.append(Free(max(0, left), "in this job's cgroup"))
    limit = _slurm_limit(environment)
    if limit is not None:
        taken = field(read(root / "proc/self/status"), "VmRSS") or 0
        found.append(Free(max(0, limit - taken), "in this Slurm job"))
    size, most = mapped(), allowed()
    if size is not None and most is not None:
        found.append(Free(max(0, most - size), "under ulimit -v"))
    return min(found, default=None)  # the first field decides


class Bound(NamedTuple):
    """Bytes that this process may map.

    Attributes:
        mapped: how many it had.
        more: how many may be added.
        where: of what, for a message.
    """

    mapped: int
    more: int
    where: str


@functools.lru_cache(maxsize=1)
def _bound(second: int) -> Bound | None:
    """The bound in a second of the clock: to look takes a millisecond or two."""
    try:
        import resource  # noqa: F401
    except ImportError:  # Windows
        return None
    free, size = free_memory(), mapped()
    if free is None or size is None:  # not Linux
        return None
    return Bound(size, int(free.bytes * (1 - MARGIN)), free.where)


@contextlib.contextmanager
def _at_most(size: int) -> Iterator[None]:
    """Let this process map so many bytes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _requested(error: BaseException) -> int | None:
    """Bytes that could not be had, 0 if they are not told; None for other errors."""
    if isinstance(error, MemoryNeeded):
        return error.needed
    if isinstance(error, MemoryError):
        # numpy: "Unable to allocate 12.3 GiB for an array ..."
        match = re.search(r"allocate ([\d.]+) ([KMGT]?)(?:iB|bytes)", str(error))
        if match is None:
            return 0
        return int(float(match[1]) * 2 ** (10 * " KMGT".find(match[2] or " ")))
    match = _FAILED.search(str(error.__cause__ or error))
    return None if match is None else int(match[1] or 0)


@contextlib.contextmanager
def memory_of(device: Device, remedy: str) -> Iterator[None]:
    """Let what runs in the block take no more memory than there is.

    Args:
        device: where graphs run; a GPU's driver maps more than it takes, so that there
            is no bound.
        remedy: what to do about an utterance that needs more.

    Raises:
        GraphError: in the place of an error for want of memory.
    """
    bound = _bound(int(time.monotonic())) if device.memory == "cpu" else None
    if bound is None:
        yield
        return
    try:
        with _at_most(bound.mapped + bound.more):
            yield
    except (GraphError, MemoryError) as e:
        requested = _requested(e)
        if requested is None:
            raise
        taken = (mapped() or 0) - bound.mapped
        needed = max(bound.more, taken + requested) / _GIB
        raise GraphError(
            f"needs at least {needed:.2f} GiB of memory, {bound.more / _GIB:.2f} GiB "
            f"are free {bound.where}; {remedy}"
        ) from e
