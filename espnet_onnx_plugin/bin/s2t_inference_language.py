"""Tell languages with a bundle: ``espnet2.bin.s2t_inference_language`` without torch
and ESPnet."""

from espnet_onnx_plugin.bin._inference import Inference
from espnet_onnx_plugin.runtime.recognition.options import LanguageOptions

COMMAND = Inference(
    "s2t_inference_language",
    LanguageOptions,
    unsupported=("dtype", "quantize_s2t_model"),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
