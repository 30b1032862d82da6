"""Decode with a bundle: ``espnet2.bin.s2t_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import OF_PARTIAL_AR, WITHOUT_EFFECT, Inference
from espnet_onnx_plugin.runtime.recognition.options import S2tOptions

COMMAND = Inference(
    "s2t_inference",
    S2tOptions,
    unsupported=(
        "dtype",
        "quantize_lm",
        "word_lm_train_config",
        "quantize_s2t_model",
        "partial_ar",
    ),
    without_effect=(*WITHOUT_EFFECT, *OF_PARTIAL_AR),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
