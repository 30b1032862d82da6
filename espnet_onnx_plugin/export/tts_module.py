"""Graphs of text-to-speech models, of one utterance: there is no axis of a batch.

Tensors are wired by name: what a graph reads is what an earlier one made, or what the
runtime makes of the text, the options and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from espnet_onnx_plugin.bundle.search import Features
from espnet_onnx_plugin.export.graph import GraphModule


class TTSModule(GraphModule):
    """A module that becomes one graph.

    Attributes:
        unused_draws: how many random numbers ESPnet draws to no effect when it runs the
            module.
    """

    unused_draws = 0


@dataclass(frozen=True)
class TTSModules:
    """A model of ESPnet's ``tts`` as graphs.

    Attributes:
        modules: by role: encoder, decoder, and postnet or vocoder where it has one.
        search: what the runtime has to know to run them, for the manifest.
        vocoder_reads: the output that becomes a waveform.
    """

    modules: Mapping[str, TTSModule]
    search: Features
    vocoder_reads: str = "feat_gen_denorm"
