"""Files of /proc and /sys, in which Linux tells of processes and of the machine."""

from __future__ import annotations

import math
import re
from pathlib import Path


def read(path: Path) -> str:
    """Text of such a file; nothing where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def field(text: str, name: str) -> int | None:
    """A number in ``NAME: 12 kB``, in bytes, or in ``NAME 12``."""
    match = re.search(rf"^{name}:?\s+(\d+)( kB)?$", text, re.M)
    return int(match[1]) * (2**10 if match[2] else 1) if match else None


def mapped() -> int | None:
    """Bytes of this process's address space; None where it is not Linux."""
    return field(read(Path("/proc/self/status")), "VmSize")


def allowed() -> int | None:
    """Bytes that this process may map; None: any number."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def room() -> float:
    """Bytes that this process may still map."""
    most = allowed()
    return math.inf if most is None else most - (mapped() or 0)
