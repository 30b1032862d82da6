"""Decode with a bundle: ``espnet2.bin.st_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._common import str2bool
from espnet_onnx_plugin.bin._inference import (
    SEARCH,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    Inference,
)

#: Options of the search, of which a multi-decoder model has a second one.
_TWICE = (
    "nbest",
    "beam_size",
    "penalty",
    "maxlenratio",
    "minlenratio",
    "lm_weight",
    "ngram_weight",
)

_WORD_LM = "word language models are not supported"

COMMAND = Inference(
    name="st_inference",
    options={
        # A translation does not follow the speech in time.
        **{name: SEARCH[name] for name in SEARCH if name != "ctm"},
        "ctc_weight": dict(type=float, default=0.0),
        **{f"asr_{name}": SEARCH[name] for name in _TWICE},
        "asr_ctc_weight": dict(type=float, default=0.3),
        "hugging_face_decoder": dict(type=str2bool, default=False),
        "ctc_greedy": dict(type=str2bool, default=False, help="CTC, frame by frame"),
    },
    unsupported={
        "dtype": UNSUPPORTED["dtype"],
        "word_lm_train_config": (None, _WORD_LM),
        "src_word_lm_train_config": (None, _WORD_LM),
        "enh_s2t_task": (False, "joint enhancement is not supported yet"),
        "transducer_conf": (None, "transducers are not supported yet"),
    },
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
