"""Opening a bundle for one of the classes that decode or speak with it."""

import functools
from pathlib import Path
from typing import Any, Callable, Mapping, Tuple, Union

from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.bundle.typed import check_types
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.arithmetic import tell_arithmetic
from espnet_onnx_plugin.runtime.core.device import Device, check_precision


class Reopened:
    """Base of what opens a bundle: copied and pickled as the arguments that opened it.

    Sessions of onnxruntime cannot be pickled, and need not be: the process that
    receives one opens the bundle again.
    """

    _arguments: Tuple[Tuple[Any, ...], Mapping[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Reopened":
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    def __reduce__(self) -> Tuple[Callable[..., Any], Tuple[Any, ...]]:
        args, kwargs = self._arguments
        return functools.partial(type(self), **kwargs), args


def make_options(options_class: Any, options: Mapping[str, Any]) -> Any:
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
    model_dir: Union[str, Path, Bundle], device: Device, task: str, taker: str
) -> Bundle:
    """A bundle, if it is one of a task and for a device.

    Args:
        model_dir: the bundle, or its directory.
        device: where it will run.
        task: that of the bundles that are taken.
        taker: what takes them, for the message.

    Raises:
        PluginError: if it cannot be read or is for something else.
    """
    bundle = model_dir if isinstance(model_dir, Bundle) else read_bundle(model_dir)
    if bundle.manifest.task != task:
        raise PluginError(
            f"{bundle.path} is a bundle of task '{bundle.manifest.task}', "
            f"{taker} takes {task}"
        )
    check_precision(bundle, device)
    tell_arithmetic(bundle.manifest)
    return bundle
