"""Mask-CTC with a bundle: the counterpart of ``espnet2.bin.asr_inference_maskctc``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import MaskCTC
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.options import MaskCTCOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    PLACEHOLDER,
    NBest,
    Recognized,
    recognized,
)
from espnet_onnx_plugin.runtime.search.mask_ctc import MaskCTCSearch


class Speech2Text(SpeechModel[MaskCTCOptions, MaskCTC, NBest[Recognized]]):
    """Recognize speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`MaskCTCOptions`.
    """

    task = "asr"
    kind = MaskCTC
    other_kind = "is no Mask-CTC model: use asr_inference"
    options_class = MaskCTCOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check: the defaults use every graph."""
        return {}

    def _build_search(self) -> MaskCTCSearch:
        return MaskCTCSearch(
            Session(self.bundle, "mask_decoder", self.device),
            Session(self.bundle, "mask_decoder_memory", self.device),
            self._described,
            self._options.maskctc_n_iterations,
            self._options.maskctc_threshold_probability,
            self.converter.token_list,
        )

    def _results(self, stages: Sequence[Stage]) -> list[NBest[Recognized]]:
        """The results of each utterance; ESPnet's leaves intermediate CTCs out."""
        [stage] = stages
        return [recognized(self.converter, found) for found in stage.hypotheses]

    def placeholder(self) -> NBest[Recognized]:
        """The results of an utterance that is too short for the encoder."""
        return NBest([PLACEHOLDER])
