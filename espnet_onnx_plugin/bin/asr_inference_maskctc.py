"""Decode by Mask-CTC: ``espnet2.bin.asr_inference_maskctc`` without torch."""

from espnet_onnx_plugin.bin._inference import LOADING, Inference
from espnet_onnx_plugin.runtime.recognition.options import MaskCTCOptions

COMMAND = Inference(
    "asr_inference_maskctc",
    MaskCTCOptions,
    unsupported=("dtype",),
    without_effect=("seed", *LOADING, "token_type", "bpemodel"),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
