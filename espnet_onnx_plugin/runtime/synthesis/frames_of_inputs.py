"""Features of models that read a row of inputs for every frame: naive RNN."""

from __future__ import annotations

from espnet_onnx_plugin.runtime.core.session import run
from espnet_onnx_plugin.runtime.synthesis.features import Graphs, Synthesized
from espnet_onnx_plugin.runtime.synthesis.model_inputs import ModelInputs
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


class FramesOfInputs:
    """A model whose features are as long as its inputs.

    Args:
        graphs: its encoder, which is all of it.
    """

    def __init__(self, graphs: Graphs):
        self._encoder = graphs["encoder"]

    def features(
        self, inputs: ModelInputs, options: TtsOptions, noise: Noise
    ) -> Synthesized:
        """Make the features of one song."""
        return Synthesized(**run(self._encoder, inputs.tensors))
