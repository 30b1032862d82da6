"""Decode with a bundle: ``espnet2.bin.s2t_inference_ctc`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import Inference
from espnet_onnx_plugin.runtime.recognition.options import S2tCtcGreedyOptions

COMMAND = Inference(
    "s2t_inference_ctc",
    S2tCtcGreedyOptions,
    unsupported=(
        "dtype",
        "quantize_lm",
        "word_lm_train_config",
        "quantize_s2t_model",
        "streaming",
        "generate_interctc_outputs",
    ),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
