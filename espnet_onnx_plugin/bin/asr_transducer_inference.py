"""Decode with a bundle: ``espnet2.bin.asr_transducer_inference`` without torch."""

from espnet_onnx_plugin.bin._inference import WITHOUT_EFFECT, Inference
from espnet_onnx_plugin.runtime.recognition.options import AsrTransducerOptions

COMMAND = Inference(
    "asr_transducer_inference",
    AsrTransducerOptions,
    unsupported=("dtype", "quantize_asr_model"),
    without_effect=(*WITHOUT_EFFECT, "display_hypotheses"),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
