"""Graphs of text-to-speech models, of one utterance: there is no axis of a batch.

Tensors are wired by name: what a graph reads is what an earlier one made, or what the
runtime makes of the text, the options and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.bundle.search import Features


class Part(torch.nn.Module):
    """A module that becomes one graph.

    ``forward`` takes the inputs and then the states, each by its place, and gives the
    outputs and then the states of the next step.

    Attributes:
        inputs, outputs: its tensors by name.
        states: recurrent states by name.
        below: of inputs that are ids, what they are below: a number, or an axis.
        sizes: of axes, where the trace needs others than usual.
        idle: numbers that ESPnet draws when it runs the module, to no effect.
    """

    inputs: Mapping[str, Tensor] = {}
    outputs: Mapping[str, Tensor] = {}
    states: Mapping[str, State] = {}
    below: Mapping[str, int | str] = {}
    sizes: Mapping[str, int] = {}
    idle = 0

    def example(
        self, sizes: Mapping[str, int], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Made-up inputs and states by name."""
        return {
            name: self._made_up(name, tensor, sizes, generator)
            for name, tensor in {**self.inputs, **self.states}.items()
        }

    def _made_up(self, name, tensor, sizes, generator) -> torch.Tensor:
        shape = [sizes.get(axis, axis) for axis in tensor.axes]
        if tensor.dtype == "bool":
            return torch.zeros(shape, dtype=torch.bool)
        if tensor.dtype == "int64":
            below = self.below[name]
            below = sizes.get(below, below)
            return torch.randint(0, below, shape, generator=generator)
        return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class TextToSpeech:
    """A model of ESPnet's ``tts`` as graphs.

    Attributes:
        parts: by role: encoder, decoder, and postnet or vocoder where it has one.
        search: what the runtime has to know to run them, for the manifest.
        vocoder_reads: the output that becomes a waveform.
        context: frames that the vocoder sees before and after one, see the manifest.
    """

    parts: Mapping[str, Part]
    search: Features
    vocoder_reads: str = "feat_gen_denorm"
    context: tuple[int, int] | None = field(default=None)


def fold_weight_norm(module: torch.nn.Module) -> None:
    """Make the weights of a module what weight normalization makes them at each call.

    A graph would make them at each call too, and a quantizer would not know them.
    """
    for layer in module.modules():
        if hasattr(layer, "weight_g"):
            torch.nn.utils.remove_weight_norm(layer)
        elif hasattr(layer, "parametrizations"):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")


def idle_draws(module: torch.nn.Module) -> int:
    """Numbers that ESPnet draws when it runs a stack of layers, to no effect.

    ``MultiSequential`` draws which layers to leave out in training, and draws always.
    """
    stacks = (m for m in module.modules() if type(m).__name__ == "MultiSequential")
    return sum(map(len, stacks))
