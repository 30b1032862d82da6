"""Extract with a bundle: ``espnet2.bin.enh_tse_inference`` without torch and ESPnet."""

from __future__ import annotations

from espnet_onnx_plugin.bin._inference import LOADING
from espnet_onnx_plugin.bin.enh_inference import Enhancing
from espnet_onnx_plugin.runtime.enhancement.options import ExtractionOptions

COMMAND = Enhancing(
    "enh_tse_inference",
    ExtractionOptions,
    unsupported=("dtype",),
    without_effect=LOADING,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
