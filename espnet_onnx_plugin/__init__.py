"""ONNX export, optimization and decoding as three more stages of an ESPnet recipe."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["PluginError", "SingingGenerate", "Speech2Text", "Text2Speech"]

if TYPE_CHECKING:
    from espnet_onnx_plugin.errors import PluginError
    from espnet_onnx_plugin.runtime.asr import Speech2Text
    from espnet_onnx_plugin.runtime.svs import SingingGenerate
    from espnet_onnx_plugin.runtime.tts import Text2Speech


def __getattr__(name: str) -> Any:
    # Lazy, so that a command line's --help does not wait for onnxruntime.
    if name == "Speech2Text":
        from espnet_onnx_plugin.runtime.asr import Speech2Text

        return Speech2Text
    if name == "Text2Speech":
        from espnet_onnx_plugin.runtime.tts import Text2Speech

        return Text2Speech
    if name == "SingingGenerate":
        from espnet_onnx_plugin.runtime.svs import SingingGenerate

        return SingingGenerate
    if name == "PluginError":
        from espnet_onnx_plugin.errors import PluginError

        return PluginError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
