"""Sing with a bundle: ``espnet2.bin.svs_inference`` without torch and ESPnet."""

from __future__ import annotations

from espnet_onnx_plugin.bin._inference import LOADING
from espnet_onnx_plugin.bin._synthesis import Synthesis
from espnet_onnx_plugin.runtime.synthesis.options import SvsOptions

COMMAND = Synthesis(
    "svs_inference",
    SvsOptions,
    unsupported=("dtype", "vocoder_config", "vocoder_checkpoint", "use_singomd"),
    without_effect=(*LOADING, "svs_task"),
    lists_waves=True,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
