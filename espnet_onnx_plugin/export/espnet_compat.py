"""The two layouts of ESPnet.

Up to release 202511 the network modules live in ``espnet.nets``; from 2026 the same
modules live in ``espnet2.legacy.nets``. Everything else is ``espnet2.*`` in both.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def import_nets(name: str) -> ModuleType:
    """Import ``nets.<name>`` from whichever layout is installed.

    Args:
        name: dotted path below ``nets``, e.g. ``pytorch_backend.nets_utils``.
    """
    try:
        return importlib.import_module(f"espnet2.legacy.nets.{name}")
    except ModuleNotFoundError as e:
        if e.name is None or not e.name.startswith("espnet2.legacy"):
            raise
    return importlib.import_module(f"espnet.nets.{name}")
