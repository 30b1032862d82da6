"""Graphs of models that speak or sing, of one utterance: there is no axis of a batch.

Tensors are wired by name: what a graph reads is what an earlier one made, or what the
runtime makes of the text, the options and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from espnet_onnx_plugin.bundle import Excitation
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
class ScoreReads:
    """Inputs of a model that sings, for ``espnet_onnx_plugin.bundle.ScoreInputs``.

    Attributes:
        ids: how many ids the encoder has, by input.
        repeated_by: durations by which ``frame_score_feats`` repeats a phone, for what
            the model reads of it: of the label (``lab``) or the score.
        needs_labels: whether its inference asks for durations of the label.
    """

    ids: Mapping[str, int]
    repeated_by: Literal["duration_phn", "duration_ruled_phn"] = "duration_ruled_phn"
    needs_labels: bool = False


@dataclass(frozen=True)
class TTSModules:
    """A model of ESPnet's ``tts`` or ``svs`` as graphs.

    Attributes:
        modules: by role: encoder, decoder, and postnet or vocoder where it has one.
        search: what the runtime has to know to run them, for the manifest.
        vocoder_reads: the output that becomes a waveform.
        excitation: what its vocoder reads of the fundamental frequency, or None.
        f0_reader: ESPnet's module whose first input is the fundamental frequency, from
            which roundings of a phase grow (see :mod:`~espnet_onnx_plugin.runtime.
            synthesis.excitation`); None where none does.
        score: what it reads of a score; None where it speaks.
    """

    modules: Mapping[str, TTSModule]
    search: Features
    vocoder_reads: str = "feat_gen_denorm"
    excitation: Excitation | None = None
    f0_reader: torch.nn.Module | None = None
    score: ScoreReads | None = None
