"""Opening a bundle for one of the classes that ESPnet's users know."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.bundle.typed import check_types
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.arithmetic import tell_arithmetic
from espnet_onnx_plugin.runtime.core.device import Device, check_fits

OptionsT = TypeVar("OptionsT")


def make_options(options_class: type[OptionsT], options: Mapping[str, Any]) -> OptionsT:
    """The decoding options of a call, by name.

    Raises:
        PluginError: if one is unknown, of another type or cannot be met.
    """
    check_types(options_class, options)
    try:
        return options_class(**options)
    except TypeError as e:
        raise PluginError(f"decoding options: {e}")


def open_bundle(
    model_dir: str | Path | Bundle, device: Device, task: str, taker: str
) -> Bundle:
    """A bundle, if it is one of a task and for a device.

    Args:
        model_dir: the bundle, or its directory.
        device: where it will run.
        task: of the bundles that are taken.
        taker: words for what takes them, for the message.

    Raises:
        PluginError: if it cannot be read or is for something else.
    """
    bundle = model_dir if isinstance(model_dir, Bundle) else read_bundle(model_dir)
    if bundle.manifest.task != task:
        raise PluginError(
            f"{bundle.path} is a bundle of task '{bundle.manifest.task}', "
            f"{taker} takes {task}"
        )
    check_fits(bundle, device)
    tell_arithmetic(bundle.manifest)
    return bundle


class OpenedModel(ABC, Generic[OptionsT]):
    """A bundle's model with decoding options; copied and pickled as its arguments.

    Sessions of onnxruntime cannot be pickled, and need not be: the process that
    receives one opens the bundle's graphs again. It does not read all files for their
    digests again, which the first has done.

    Args:
        model_dir: the bundle, or its directory.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: CPU threads.
        session: the other attributes of
            :class:`~espnet_onnx_plugin.runtime.core.device.Device`, by name.
        options: ESPnet's decoding options, see :attr:`options_class`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.
    """

    #: Task of the bundles that are taken.
    task: str
    #: Task of those that are taken in their place where ESPnet's option
    #: ``enh_s2t_task`` is set; None: there is no such option.
    joint_task: str | None = None
    #: The dataclass of the decoding options.
    options_class: type[OptionsT]

    _arguments: tuple[tuple[Any, ...], Mapping[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> OpenedModel[OptionsT]:
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    def __init__(
        self,
        model_dir: str | Path | Bundle,
        provider: str = "cpu",
        threads: int = 1,
        session: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ):
        self._options = make_options(self.options_class, options)
        self.device = Device(provider, threads, **session)
        task, taker = self.task, type(self).__name__
        if self.joint_task is not None:
            joint = vars(self._options)["enh_s2t_task"]
            task = self.joint_task if joint else task
            taker = f"{taker} with enh_s2t_task {joint}"
        self.bundle = open_bundle(model_dir, self.device, task, taker)
        self._open()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        args, kwargs = self._arguments
        if args:
            args = self.bundle, *args[1:]
        else:
            kwargs = {**kwargs, "model_dir": self.bundle}
        return functools.partial(type(self), **kwargs), args

    @abstractmethod
    def _open(self) -> None:
        """Open the bundle's parts, and refuse options that they cannot meet."""
