"""Streams as bytes, and back: pickles that can hold nothing but data."""

from __future__ import annotations

import io
import pickle
from typing import Any

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError

#: Functions and classes of numpy that a pickled array or number names.
_ARRAYS = {"_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"}


class _DataReader(pickle.Unpickler):
    """Reads numbers, arrays and this package's classes of them, and calls no other."""

    def find_class(self, module: str, name: str) -> Any:
        """A class that a pickle names.

        Raises:
            UnpicklingError: if it is none of those.
        """
        package, *_ = module.split(".")
        if package == "numpy" and name in _ARRAYS:
            return super().find_class(module, name)
        if module.startswith("espnet_onnx_plugin.runtime.") and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is no data")


def identity(bundle: Bundle) -> dict[str, str]:
    """Digests of the graphs by role, by which a bundle is known again."""
    return {role: graph.file.sha256 for role, graph in bundle.manifest.graphs.items()}


def to_bytes(bundle: Bundle, data: Any) -> bytes:
    """Data of a bundle's model as bytes."""
    return pickle.dumps((identity(bundle), data))


def from_bytes(bundle: Bundle, saved: bytes) -> Any:
    """Data from bytes.

    Raises:
        PluginError: if they are not those of :func:`to_bytes` with the same bundle.
    """
    try:
        graphs, data = _DataReader(io.BytesIO(saved)).load()
    except Exception as e:  # a pickle may raise anything on its way
        raise PluginError(f"these bytes are no saved stream ({e})")
    if graphs != identity(bundle):
        raise PluginError(
            f"the stream was saved with another model than {bundle.path}: resume it "
            "with that one"
        )
    return data
