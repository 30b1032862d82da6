"""Packages that only some models need, imported when one does."""

import importlib
from types import ModuleType

from espnet_onnx_plugin.errors import PluginError


def import_package(module: str, what: str, install: str) -> ModuleType:
    """Import a module of a package that may be missing.

    Args:
        module: its dotted name.
        what: what needs it, for the message.
        install: what pip installs it by.

    Raises:
        PluginError: if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise PluginError(f"{what} cannot be used ({e}): pip install {install}")
