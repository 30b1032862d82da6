"""Which class decodes bundles of which task."""

import importlib
from typing import Any

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError

#: Module of this package and class, by task.
CLASSES = {
    "asr": ("asr", "Speech2Text"),
    "asr_maskctc": ("mask_ctc", "Speech2Text"),
    "slu": ("slu", "Speech2Understand"),
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


def open_model(bundle: Bundle, **options: Any) -> Any:
    """Open a bundle for decoding, with ESPnet's decoding options."""
    task = "asr_maskctc" if is_mask_ctc(bundle) else bundle.manifest.task
    return model_class(task)(bundle, **options)


def is_mask_ctc(bundle: Bundle) -> bool:
    """Whether a bundle of task asr is decoded by Mask-CTC."""
    return "mask_decoder" in bundle.manifest.graphs
