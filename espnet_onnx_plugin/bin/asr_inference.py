"""Decode with a bundle: ``espnet2.bin.asr_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._common import settings, str2bool, str_or_none
from espnet_onnx_plugin.bin._inference import (
    SEARCH,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    Inference,
)

COMMAND = Inference(
    name="asr_inference",
    options={
        **SEARCH,
        "time_sync": dict(type=str2bool, default=False, help="time-synchronous search"),
        "multi_asr": dict(
            type=str2bool,
            default=False,
            help="whether the model tells several speakers apart",
        ),
        "hugging_face_decoder": dict(type=str2bool, default=False),
        "hugging_face_decoder_conf": dict(
            type=settings, default={}, help="of transformers' generate: NAME=VALUE,..."
        ),
        "lang_prompt_token": dict(
            type=str_or_none, help="tokens in place of Whisper's language and task"
        ),
        "nlp_prompt_token": dict(
            type=str_or_none, help="text in place of Whisper's task"
        ),
        "ctc_window_margin": dict(
            type=int,
            help="frames of the encoder, before and behind the hypotheses, that the "
            "CTC looks at in a step; 0: all; default: that of the release of ESPnet "
            "that exported the bundle (100 from 202611 on, 0 before)",
        ),
    },
    unsupported={
        **UNSUPPORTED,
        "streaming": (False, "streaming search is not supported yet"),
        "enh_s2t_task": (False, "joint enhancement is not supported yet"),
        "quantize_asr_model": (False, "use the int8 bundle"),
        "transducer_conf": (None, "transducers are not supported yet"),
        "partial_ar": (False, "partially autoregressive search is not supported yet"),
        "prompt_token_file": (None, "tokens cannot be added to a bundle's"),
    },
    without_effect=(
        *WITHOUT_EFFECT,
        "threshold_probability",
        "max_seq_len",
        "max_mask_parallel",
    ),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
