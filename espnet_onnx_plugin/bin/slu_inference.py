"""Decode with a bundle: ``espnet2.bin.slu_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import Inference
from espnet_onnx_plugin.runtime.recognition.options import TransducerOptions

COMMAND = Inference(
    "slu_inference",
    TransducerOptions,
    unsupported=(
        "dtype",
        "quantize_lm",
        "word_lm_train_config",
        "streaming",
        "run_chunk",
        "quantize_asr_model",
    ),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
