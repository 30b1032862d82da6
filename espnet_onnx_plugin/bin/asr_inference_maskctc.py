"""Decode by Mask-CTC: ``espnet2.bin.asr_inference_maskctc`` without torch."""

import argparse
from typing import Optional, Sequence

from espnet_onnx_plugin.bin import asr_inference
from espnet_onnx_plugin.bin._common import ArgumentParser, run

UNSUPPORTED = {"dtype": asr_inference.UNSUPPORTED["dtype"]}

WITHOUT_EFFECT = (
    "seed",
    "num_workers",
    "allow_variable_data_keys",
    "token_type",
    "bpemodel",
)

SEARCH_OPTIONS = ("maskctc_n_iterations", "maskctc_threshold_probability")


def get_parser() -> ArgumentParser:
    """The options, with ESPnet's names and defaults."""
    parser = asr_inference.common_parser(
        "asr_inference_maskctc", UNSUPPORTED, WITHOUT_EFFECT
    )
    group = parser.add_argument_group("As in espnet2.bin.asr_inference_maskctc")
    group.add_argument(
        "--maskctc_n_iterations",
        type=int,
        default=10,
        help="most passes over an utterance; 0: as many as it has masks",
    )
    group.add_argument(
        "--maskctc_threshold_probability",
        type=float,
        default=0.99,
        help="tokens of which the CTC is less sure are masked",
    )
    return parser


def inference(args: argparse.Namespace) -> None:
    """Decode by filling masks."""
    from espnet_onnx_plugin.runtime.mask_ctc import Speech2Text

    asr_inference.decode_all(args, Speech2Text, SEARCH_OPTIONS, UNSUPPORTED)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Entry point."""
    run(get_parser(), inference, cmd)


if __name__ == "__main__":
    main()
