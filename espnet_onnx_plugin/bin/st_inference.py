"""Decode with a bundle: ``espnet2.bin.st_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import WITHOUT_EFFECT, Inference
from espnet_onnx_plugin.runtime.recognition.options import StOptions

COMMAND = Inference(
    "st_inference",
    StOptions,
    unsupported=(
        "dtype",
        "word_lm_train_config",
        "src_word_lm_train_config",
        "enh_s2t_task",
    ),
    without_effect=(
        *WITHOUT_EFFECT,
        "src_token_type",
        "src_bpemodel",
        "hugging_face_decoder_max_length",
    ),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
