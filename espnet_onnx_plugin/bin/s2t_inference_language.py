"""Tell languages with a bundle: ``espnet2.bin.s2t_inference_language`` without torch
and ESPnet."""

from espnet_onnx_plugin.bin._inference import UNSUPPORTED, WITHOUT_EFFECT, Inference

COMMAND = Inference(
    name="s2t_inference_language",
    options={
        "nbest": dict(type=int, default=1),
        "first_lang_sym": dict(default="<abk>", help="the first language's symbol"),
        "last_lang_sym": dict(default="<zul>", help="the last language's symbol"),
    },
    unsupported={
        "dtype": UNSUPPORTED["dtype"],
        "quantize_s2t_model": (False, "use the int8 bundle"),
    },
    without_effect=WITHOUT_EFFECT,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
