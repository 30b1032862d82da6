"""Which class decodes bundles of which task."""

import importlib
from typing import Any

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError

#: Module of this package and class, by task; besides, other uses of a task's bundles.
CLASSES = {
    "asr": ("asr", "Speech2Text"),
    "asr_maskctc": ("mask_ctc", "Speech2Text"),
    "st": ("st", "Speech2Text"),
    "slu": ("slu", "Speech2Understand"),
    "s2t": ("s2t", "Speech2Text"),
    "s2t_ctc": ("s2t_ctc", "Speech2TextGreedySearch"),
    "s2t_language": ("s2t_language", "Speech2Language"),
    "tts": ("tts", "Text2Speech"),
}


def model_class(task: str) -> type:
    """The class that decodes bundles of a task.

    Raises:
        PluginError: if there is none.
    """
    if task not in CLASSES:
        raise PluginError(
            f"task '{task}' is not supported (supported: {', '.join(CLASSES)})"
        )
    module, name = CLASSES[task]
    return getattr(
        importlib.import_module(f"espnet_onnx_plugin.runtime.{module}"), name
    )


#: Command that decodes a use, here as in ESPnet, where it is not called USE_inference.
_COMMANDS = {
    "s2t_ctc": "s2t_inference_ctc",
    "asr_maskctc": "asr_inference_maskctc",
    "s2t_language": "s2t_inference_language",
}


def _command(use: str) -> str:
    return _COMMANDS.get(use, f"{use}_inference")


def class_name(command: str) -> str:
    """Name of the class that a command decodes with, here as in ESPnet.

    Raises:
        PluginError: if there is no such command.
    """
    names = {_command(use): name for use, (_, name) in CLASSES.items()}
    if command not in names:
        raise PluginError(f"'{command}' is not one of {', '.join(names)}")
    return names[command]


def use(bundle: Bundle) -> str:
    """What of :data:`CLASSES` a bundle is for."""
    return "asr_maskctc" if is_mask_ctc(bundle) else bundle.manifest.task


def command(bundle: Bundle) -> str:
    """Name of the command that decodes a bundle, here as in ESPnet."""
    return _command(use(bundle))


def open_model(bundle: Bundle, **options: Any) -> Any:
    """Open a bundle for decoding, with ESPnet's decoding options."""
    return model_class(use(bundle))(bundle, **options)


def is_mask_ctc(bundle: Bundle) -> bool:
    """Whether a bundle of task asr is decoded by Mask-CTC."""
    return "mask_decoder" in bundle.manifest.graphs
