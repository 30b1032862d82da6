"""Graphs of separators that work through a stream, as ``forward_streaming`` of ESPnet.

They read and give frames: what cuts a stream into frames and adds them up again is the
runtime's, as Fourier transforms are.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.bundle.enhancement import FrameStream
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.separation import magnitude

logger = logging.getLogger(__name__)

#: The graph's role.
STEP = "separator_step"


class SeparatorStep(torch.nn.Module):
    """ESPnet's separator for the next frames of a stream.

    Attributes:
        states: recurrent states by name.
        segment, silence, exact: see
            :class:`~espnet_onnx_plugin.bundle.enhancement.FrameStream`.
    """

    states: Mapping[str, State] = {}
    segment: int | None = None
    silence: int = 0
    exact: bool = True

    def forward(
        self, features: Any, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[Any], Sequence[torch.Tensor]]:
        """Separate on.

        Args:
            features: ESPnet's, (1, frames, size); complex behind a Fourier transform.
            states: in the order of :attr:`states`.

        Returns:
            Features of each speaker, and the next states.
        """
        raise NotImplementedError


class Masks(Protocol):
    """A separator of masks that goes on behind the frames before."""

    def step(
        self, x: torch.Tensor, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Masks of the next frames (frames, size), and the next states."""

    def masked(self, features: Any, masks: Sequence[torch.Tensor]) -> list[Any]:
        """Masks, see :class:`.MaskSeparator`."""


class MaskStep(SeparatorStep):
    """A step of a :class:`.MaskSeparator`.

    Args:
        separator: a module.
        states: by name.
        segment: see :class:`SeparatorStep`.
    """

    def __init__(
        self,
        separator: Masks,
        states: Mapping[str, State],
        segment: int | None = None,
    ):
        super().__init__()
        self.separator, self.states, self.segment = separator, states, segment

    def forward(
        self, features: Any, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[Any], Sequence[torch.Tensor]]:
        masks, after = self.separator.step(magnitude(features)[0], states)
        return self.separator.masked(features, masks), after


class StepModule(GraphModule):
    """A step of the separator between the ends of the model.

    Without a Fourier transform it reads ``speech`` (frames, frame_size) and gives
    ``waveforms`` (outputs, frames, frame_size).

    Args:
        step: of the separator.
        ends: what stands around it.
        outputs: how many it gives.
    """

    def __init__(self, step: SeparatorStep, ends: Ends, outputs: int):
        super().__init__()
        self.step, self.ends = step, ends
        self.states = step.states
        self.sizes = dict(frames=5)
        if ends.analysis is None:
            size = ends.encoder.kernel_size
            self.inputs = {"speech": Tensor("float32", ("frames", size))}
            self.outputs = {"waveforms": Tensor("float32", (outputs, "frames", size))}
        else:
            self.inputs, self.outputs = ends.inputs(1), ends.outputs(outputs)

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[Any, ...]:
        """The next frames and the states -> their waveforms or spectra, the next."""
        ends = self.ends
        if ends.analysis is not None:
            separated, after = self.step(ends.features(x)[0], states)
            return (ends.estimates(separated, x), *after)
        # Of one frame each, convolutions are products: in one matrix for all frames.
        kernel = ends.encoder.conv1d.weight[:, 0]
        features = torch.relu(torch.nn.functional.linear(x, kernel))[None]
        separated, after = self.step(features, states)
        made = torch.cat(list(separated)) @ ends.decoder.convtrans1d.weight[:, 0]
        return (made, *after)


def streamed(whole: EnhModules, step: SeparatorStep) -> EnhModules:
    """A model with the graph by which it works through streams.

    The model is left as it is where its encoder or decoder has no frames in ESPnet.

    Args:
        whole: its graphs for whole mixtures.
        step: of its separator.
    """
    ends = whole.ends
    framing = _framing(ends)
    if isinstance(framing, str):
        logger.info("the model takes no streams: %s", framing)
        return whole
    module = StepModule(step, ends, _outputs(whole))
    stream = dataclasses.replace(
        framing,
        segment=step.segment,
        silence=step.silence,
        exact=framing.exact and step.exact,
    )
    return dataclasses.replace(
        whole, modules={**whole.modules, STEP: module}, stream=stream
    )


def without_stream(whole: EnhModules) -> EnhModules:
    """A model for whole mixtures alone."""
    modules = {role: m for role, m in whole.modules.items() if role != STEP}
    return dataclasses.replace(whole, modules=modules, stream=None)


def _outputs(whole: EnhModules) -> int:
    """How many waveforms the model gives."""
    [tensor] = whole.modules["separator"].outputs.values()
    return int(tensor.axes[0])


def _framing(ends: Ends) -> FrameStream | str:
    """The frames that ESPnet's ``streaming_frame`` cuts, or why there are none."""
    analysis, synthesis = ends.analysis, ends.synthesis
    if analysis is None and synthesis is None:
        encoder, decoder = ends.encoder, ends.decoder
        if not hasattr(encoder, "conv1d") or not hasattr(decoder, "convtrans1d"):
            return "its encoder and decoder have to be conv or stft"
        size, hop = encoder.kernel_size, encoder.stride
        if (size, hop) != (decoder.kernel_size, decoder.stride):
            return "its encoder and decoder have other frames"
        framing = FrameStream(frame_size=size, hop_length=hop)
    elif analysis is None or analysis != synthesis:
        return "its encoder and decoder have other frames"
    elif analysis.window is None or analysis.n_fft % 2 or not analysis.onesided:
        return "ESPnet's frames need a window, an even n_fft and onesided spectra"
    else:
        size = analysis.win_length
        centered = analysis.center and size % 2 == 0
        framing = FrameStream(
            frame_size=size,
            hop_length=analysis.hop_length,
            padding=size // 2 if analysis.center else 0,
            # Frames of a window in the middle of n_fft begin where whole mixtures'
            # do if both are reflected around the first sample.
            exact=centered or size == analysis.n_fft,
        )
    if framing.hop_length > framing.frame_size:
        return "its frames do not touch"
    return framing
