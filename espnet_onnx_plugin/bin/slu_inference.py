"""Decode with a bundle: ``espnet2.bin.slu_inference`` without torch and ESPnet."""

from espnet_onnx_plugin.bin._inference import UNSUPPORTED, Inference

COMMAND = Inference(
    name="slu_inference",
    unsupported={
        **UNSUPPORTED,
        "streaming": (False, "streaming search is not supported yet"),
        "run_chunk": (False, "classification of chunks is not supported"),
        "quantize_asr_model": (False, "use the int8 bundle"),
        "transducer_conf": (None, "transducers are not supported yet"),
    },
    texts=("transcript",),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
