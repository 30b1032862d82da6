"""Time ESPnet's own Mask-CTC inference, as :mod:`.asr_reference` its beam search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from espnet_onnx_plugin.bin import asr_reference
from espnet_onnx_plugin.bin._common import run

NAME = "asr_inference_maskctc"


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = asr_reference.get_parser(NAME, "asr_reference_maskctc")
    run(parser, partial(asr_reference.reference, name=NAME), cmd)


if __name__ == "__main__":
    main()
