"""Translate streams with a bundle: ``st_inference_streaming`` without torch."""

from espnet_onnx_plugin.bin._inference import LOADING, Inference
from espnet_onnx_plugin.runtime.recognition.options import StStreamingOptions

COMMAND = Inference(
    "st_inference_streaming",
    StStreamingOptions,
    unsupported=(
        "dtype",
        "word_lm_train_config",
        "transducer_conf",
    ),
    without_effect=("seed", *LOADING, "token_type", "bpemodel"),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
