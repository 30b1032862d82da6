"""Decode by Mask-CTC: ``espnet2.bin.asr_inference_maskctc`` without torch."""

from espnet_onnx_plugin.bin._inference import UNSUPPORTED, Inference

COMMAND = Inference(
    name="asr_inference_maskctc",
    options={
        "maskctc_n_iterations": dict(
            type=int,
            default=10,
            help="most passes over an utterance; 0: as many as it has masks",
        ),
        "maskctc_threshold_probability": dict(
            type=float,
            default=0.99,
            help="tokens of which the CTC is less sure are masked",
        ),
    },
    unsupported={"dtype": UNSUPPORTED["dtype"]},
    without_effect=(
        "seed",
        "num_workers",
        "allow_variable_data_keys",
        "token_type",
        "bpemodel",
    ),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
