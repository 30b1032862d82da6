"""Decode with a bundle: ``espnet2.bin.s2t_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._common import str2bool
from espnet_onnx_plugin.bin._inference import (
    SEARCH,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    Inference,
)


def symbol(value: str) -> str:
    """A symbol, whose brackets may be left out: a shell redirects at them."""
    return f"<{value.lstrip('<').rstrip('>')}>"


#: Options of ESPnet's that choose a symbol.
SYMBOLS = {
    "lang_sym": dict(type=symbol, default="<eng>", help="symbol of the language"),
    "task_sym": dict(type=symbol, default="<asr>", help="symbol of the task"),
}

COMMAND = Inference(
    name="s2t_inference",
    options={
        **{name: argument for name, argument in SEARCH.items() if name != "ctm"},
        **{
            weight: dict(type=float, default=0.0)
            for weight in ("ctc_weight", "lm_weight", "ngram_weight")
        },
        **SYMBOLS,
        "predict_time": dict(type=str2bool, default=False, help="predict timestamps"),
    },
    unsupported={
        **UNSUPPORTED,
        "quantize_s2t_model": (False, "use the int8 bundle"),
        "partial_ar": (False, "partially autoregressive search is not supported yet"),
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
