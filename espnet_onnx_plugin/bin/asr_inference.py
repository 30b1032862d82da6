"""Decode with a bundle: ``espnet2.bin.asr_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._common import str2bool
from espnet_onnx_plugin.bin._inference import (
    SEARCH,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    Inference,
)

COMMAND = Inference(
    name="asr_inference",
    task="asr",
    options={
        **SEARCH,
        "time_sync": dict(type=str2bool, default=False, help="time-synchronous search"),
    },
    unsupported={
        **UNSUPPORTED,
        "streaming": (False, "streaming search is not supported yet"),
        "enh_s2t_task": (False, "joint enhancement is not supported yet"),
        "multi_asr": (False, "multi-speaker models are not supported yet"),
        "quantize_asr_model": (False, "use the int8 bundle"),
        "hugging_face_decoder": (False, "Hugging Face decoders are not supported yet"),
        "transducer_conf": (None, "transducers are not supported yet"),
        "partial_ar": (False, "partially autoregressive search is not supported yet"),
        "lang_prompt_token": (None, "prompts are not supported yet"),
        "nlp_prompt_token": (None, "prompts are not supported yet"),
        "prompt_token_file": (None, "prompts are not supported yet"),
    },
    without_effect=(
        *WITHOUT_EFFECT,
        "hugging_face_decoder_conf",
        "threshold_probability",
        "max_seq_len",
        "max_mask_parallel",
    ),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
