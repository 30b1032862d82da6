"""Decode with a bundle: ``espnet2.bin.asr_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import OF_PARTIAL_AR, WITHOUT_EFFECT, Inference
from espnet_onnx_plugin.runtime.recognition.options import AsrOptions

COMMAND = Inference(
    "asr_inference",
    AsrOptions,
    unsupported=(
        "dtype",
        "quantize_lm",
        "word_lm_train_config",
        "quantize_asr_model",
        "partial_ar",
        "prompt_token_file",
    ),
    without_effect=(*WITHOUT_EFFECT, *OF_PARTIAL_AR),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
