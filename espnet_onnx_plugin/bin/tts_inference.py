"""Synthesize with a bundle: ``espnet2.bin.tts_inference`` without torch and ESPnet."""

from __future__ import annotations

from espnet_onnx_plugin.bin._inference import LOADING
from espnet_onnx_plugin.bin._synthesis import Synthesis
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions

COMMAND = Synthesis(
    "tts_inference",
    TtsOptions,
    unsupported=("dtype", "vocoder_config", "vocoder_file", "vocoder_tag"),
    without_effect=LOADING,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
