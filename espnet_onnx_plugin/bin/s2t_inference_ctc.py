"""Decode with a bundle: ``espnet2.bin.s2t_inference_ctc`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import (
    SEARCH,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    Inference,
)
from espnet_onnx_plugin.bin.s2t_inference import SYMBOLS

COMMAND = Inference(
    name="s2t_inference_ctc",
    options={
        **{
            name: argument
            for name, argument in SEARCH.items()
            if name not in ("ctc_weight", "normalize_length", "ctm")
        },
        "lm_weight": dict(type=float, default=0.0),
        "ngram_weight": dict(type=float, default=0.0),
        "lang_sym": dict(SYMBOLS["lang_sym"], default="<nolang>"),
        "task_sym": SYMBOLS["task_sym"],
    },
    unsupported={
        **UNSUPPORTED,
        "quantize_s2t_model": (False, "use the int8 bundle"),
        "streaming": (False, "streaming search is not supported yet"),
        "generate_interctc_outputs": (
            False,
            "the graphs have no outputs of intermediate layers",
        ),
    },
    without_effect=WITHOUT_EFFECT,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
