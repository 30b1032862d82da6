"""Memory of this process."""

from __future__ import annotations

import re
import sys


def peak_memory_mb() -> float | None:
    """Largest resident set of this process so far, in MiB; None where the system does
    not tell, as Windows.
    """
    try:
        # Where a large process starts this one, getrusage gives that one's peak.
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            match = re.search(r"^VmHWM:\s*(\d+) kB", status.read(), re.M)
    except OSError:
        match = None
    if match:
        return int(match[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
