"""Graphs of text-to-speech models, of one utterance: there is no axis of a batch.

Tensors are wired by name: what a graph reads is what an earlier one made, or what the
runtime makes of the text, the options and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from espnet_onnx_plugin.bundle import Excitation, State, Tensor
from espnet_onnx_plugin.bundle.search import Features
from espnet_onnx_plugin.export.graph import GraphSpec


class TTSModule(torch.nn.Module):
    """A module that becomes one graph, see :class:`~.graph.GraphSpec`.

    Attributes:
        inputs, outputs: its tensors by name.
        states: recurrent states by name.
        sizes: of axes, where the trace needs others than usual.
        unused_draws: how many random numbers ESPnet draws to no effect when it runs the
            module.
    """

    inputs: Mapping[str, Tensor] = {}
    outputs: Mapping[str, Tensor] = {}
    states: Mapping[str, State] = {}
    sizes: Mapping[str, int] = {}
    unused_draws = 0

    def graph_spec(self) -> GraphSpec:
        """The graph."""
        return GraphSpec(self, self.inputs, self.outputs, self.states, self.sizes)


@dataclass(frozen=True)
class TTSModules:
    """A model of ESPnet's ``tts`` as graphs.

    Attributes:
        modules: by role: encoder, decoder, and postnet or vocoder where it has one.
        search: what the runtime has to know to run them, for the manifest.
        vocoder_reads: the output that becomes a waveform.
        excitation: what its vocoder reads of the fundamental frequency, or None.
    """

    modules: Mapping[str, TTSModule]
    search: Features
    vocoder_reads: str = "feat_gen_denorm"
    excitation: Excitation | None = None
