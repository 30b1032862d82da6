"""Decode streams with a bundle: ``asr_inference_streaming`` without torch."""

from espnet_onnx_plugin.bin._inference import LOADING, Inference
from espnet_onnx_plugin.runtime.recognition.options import AsrStreamingOptions

COMMAND = Inference(
    "asr_inference_streaming",
    AsrStreamingOptions,
    unsupported=(
        "dtype",
        "word_lm_train_config",
    ),
    without_effect=("seed", *LOADING, "token_type", "bpemodel"),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
