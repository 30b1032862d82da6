"""Enhance streams with a bundle: ``enh_inference_streaming`` without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from espnet_onnx_plugin.bin._inference import LOADING
from espnet_onnx_plugin.bin.enh_inference import Enhancing
from espnet_onnx_plugin.runtime.enhancement.options import EnhStreamingOptions

if TYPE_CHECKING:
    import numpy as np

    from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming
    from espnet_onnx_plugin.runtime.enhancement.inputs import Mixture


class EnhancingStreams(Enhancing):
    """The command that enhances mixtures frame by frame.

    As ESPnet's it takes whole mixtures, and brings what comes out to a peak of 0.9.
    """

    def begin(self, model: SeparateSpeechStreaming) -> None:
        """Nothing is drawn."""

    def enhance(
        self, model: SeparateSpeechStreaming, mixture: Mixture, fs: int
    ) -> tuple[Sequence[np.ndarray], dict[str, float]]:
        """Enhance one mixture, see the base class."""
        from espnet_onnx_plugin.runtime.enhancement.engine import to_peak
        from espnet_onnx_plugin.runtime.enhancement.enhancer import read_by

        mix = read_by(model.enhancement, mixture.speech_mix)
        waves = [to_peak(wave)[0] for wave in model.simulate(mix[None])]
        return waves, dict(algorithmic_latency_seconds=model.latency / fs)


COMMAND = EnhancingStreams(
    "enh_inference_streaming",
    EnhStreamingOptions,
    unsupported=("dtype", "enh_s2t_task"),
    without_effect=("seed", *LOADING),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
