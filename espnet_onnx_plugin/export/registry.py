"""The registry of architectures.

One file of ``export/archs`` registers what ESPnet's ``config.yaml`` calls an
architecture (role and choice name), how it becomes a graph, and tiny configurations
that the parity tests and the table of supported architectures are made from.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class Arch:
    """One choice of ESPnet's ``config.yaml``.

    Attributes:
        role: the key in ``config.yaml``: frontend, encoder, decoder, lm, tts and so on.
        name: the choice, e.g. ``conformer``.
        wrap: turns ESPnet's module into an exportable one. Parts of the encoder graph
            (frontend to encoder) map ``(x, lengths)`` to ``(x, lengths)``; decoders
            and language models become a :class:`~.steps.StepModule`, or a
            :class:`~.sequences.SequenceModule`; a ``tts`` or ``svs``, with its
            normalization, becomes :class:`~.tts_module.TTSModules`; a ``separator``,
            with its ends, :class:`~.enh_module.EnhModules`. It raises
            :class:`PluginError` for a setting that is not supported.
        tiny: named small ``*_conf`` dictionaries that together touch every branch; of
            a separator also with what stands around it, ``ends``: ``conv``, where
            nothing is said, ``stft`` or ``same``.
        limits: settings that ESPnet accepts and ``wrap`` refuses, for the README.
        needs: imports the optional package that ESPnet builds it with; raises
            :class:`PluginError` that names it where it is missing.
        check: of the settings, before it is built: raises :class:`PluginError` with the
            reason where ESPnet itself cannot build or use a model with them.
        features: of an encoder that reads waveforms, what makes the features that the
            wrapped one reads; it becomes the frontend's graph.
    """

    role: str
    name: str
    wrap: Callable[..., Any]
    tiny: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    limits: str = ""
    needs: Callable[[], None] = lambda: None
    check: Callable[[Mapping[str, Any]], None] = lambda conf: None
    features: Callable[[torch.nn.Module], torch.nn.Module] | None = None


_REGISTRY: dict[tuple[str, str], Arch] = {}

#: Keys of ``config.yaml`` that choose among the architectures of another key.
_SAME_AS = {
    "hier_encoder": "encoder",
    "md_encoder": "encoder",
    "extra_asr_decoder": "decoder",
}


def register(arch: Arch) -> Arch:
    """Add an architecture; a second one of the same role and name is an error."""
    key = (arch.role, arch.name)
    if key in _REGISTRY:
        raise ValueError(f"{arch.role} '{arch.name}' is registered twice")
    if not arch.tiny:
        raise ValueError(f"{arch.role} '{arch.name}' has no tiny configuration")
    _REGISTRY[key] = arch
    return arch


def _load() -> None:
    from espnet_onnx_plugin.export import archs

    for module in pkgutil.iter_modules(archs.__path__):
        importlib.import_module(f"{archs.__name__}.{module.name}")


def find(role: str, name: str) -> Arch:
    """Return the architecture that ESPnet calls ``name`` in ``role``.

    Raises:
        PluginError: if it is not registered; the message lists what is.
    """
    _load()
    kind = _SAME_AS.get(role, role)
    if (kind, name) not in _REGISTRY:
        known = ", ".join(sorted(n for r, n in _REGISTRY if r == kind)) or "none"
        raise PluginError(
            f"{role} '{name}' is not supported (supported: {known}); to add it, write "
            f"espnet_onnx_plugin/export/archs/{name}_{kind}.py"
        )
    return _REGISTRY[kind, name]


def all_archs() -> Iterator[Arch]:
    """Yield every registered architecture, by role and name."""
    _load()
    for key in sorted(_REGISTRY):
        yield _REGISTRY[key]


def as_it_is(module: torch.nn.Module) -> torch.nn.Module:
    """The ``wrap`` of a module that can be traced without a wrapper."""
    return module


def require_package(name: str) -> None:
    """Import an optional package.

    Raises:
        PluginError: if it is not installed.
    """
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise PluginError(f"this needs the package {name} ({e}): pip install {name}")
