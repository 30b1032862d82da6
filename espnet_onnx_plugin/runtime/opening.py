"""Opening a bundle for one of the classes that decode or speak with it."""

from pathlib import Path
from typing import Any, Mapping, Union

from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.arithmetic import tell_arithmetic
from espnet_onnx_plugin.runtime.device import Device, check_precision


def make_options(options_class: Any, options: Mapping[str, Any]) -> Any:
    """The decoding options of a call, by name.

    Raises:
        PluginError: if one is unknown or cannot be met.
    """
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
