"""``separator: skim``: recurrent layers within segments, and a memory across them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.enh_stream import MaskStep, streamed
from espnet_onnx_plugin.export.layers.dual_path import merge, split
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.layers.separation import (
    MaskSeparator,
    Norm,
    Projected,
    pointwise,
)
from espnet_onnx_plugin.export.registry import Arch, register


class _Segments(torch.nn.Module):
    """``espnet2.enh.layers.skim.SegLSTM``: a layer over the frames of each segment."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.lstm, self.norm = RecurrentLayer(layer.lstm), Norm(layer.norm)
        self.projection = layer.proj

    def forward(
        self, x: torch.Tensor, states: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Frames (time, segments, dim), and states (directions, segments, hidden)."""
        y, *states = self.lstm.sequences(x, states)
        return x + self.norm(self.projection(y)), *states


class _Memory(torch.nn.Module):
    """``espnet2.enh.layers.skim.MemLSTM``: states of segments, over the segments."""

    def __init__(self, memory: torch.nn.Module):
        super().__init__()
        self.causal = not memory.bidirectional
        self.kind = memory.mem_type
        self.nets = torch.nn.ModuleDict(
            {
                state: torch.nn.Sequential(
                    Projected(getattr(memory, f"{state}_net")),
                    Norm(getattr(memory, f"{state}_norm")),
                )
                for state in "hc"
                if hasattr(memory, f"{state}_net")
            }
        )

    def forward(self, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """States before each segment (directions, segments, hidden), of those after."""
        return [self._over(name, state) for name, state in zip("hc", states)]

    def step(
        self, states: Sequence[torch.Tensor], own: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """States before a segment, of those after the segment before.

        Args:
            states: (1, 1, hidden), h and c.
            own: of the memory's layers, h and c of each.

        Returns:
            The states, and those of the memory's layers.
        """
        made, after = [], []
        for name, state in zip("hc", states):
            if self.kind != "id" and name not in self.nets:
                state = torch.zeros_like(state)
            elif self.kind != "id":
                layer, norm = self.nets[name]
                place = len(after)
                y, new = layer.run(state, own[place : place + 2])
                state, after = state + norm(y), [*after, *new]
            made.append(state)
        return made, after

    def _over(self, name: str, state: torch.Tensor) -> torch.Tensor:
        if self.kind != "id":
            if name not in self.nets:
                return torch.zeros_like(state)
            rows = state.transpose(0, 1)
            x = rows.flatten(1)[:, None]
            state = (x + self.nets[name](x)).view(rows.shape).transpose(0, 1)
        if self.causal:
            state = torch.nn.functional.pad(state[:, :-1], (0, 0, 1, 0))
        return state


class SkiMSeparator(MaskSeparator):
    """``espnet2.enh.separator.skim_separator.SkiMSeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__(separator)
        self.outputs = separator.num_outputs
        skim = separator.skim
        self.segment_size, self.overlap = skim.segment_size, skim.seg_overlap
        self.segments = torch.nn.ModuleList(map(_Segments, skim.seg_lstms))
        memories = getattr(skim, "mem_lstms", [])  # mem_type: null
        self.memories = torch.nn.ModuleList(map(_Memory, memories))
        self.activation, self.convolution = skim.output_fc

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks, see the base class."""
        y = self._merged(self._blocks(self._segmented(x)), x.size(0))
        return self._outputs(y)

    def _outputs(self, y: torch.Tensor) -> Sequence[torch.Tensor]:
        y = pointwise(self.convolution, self.activation(y))
        return y.unflatten(1, (-1, self.outputs)).unbind(2)

    def step(
        self, x: torch.Tensor, states: Sequence[torch.Tensor]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Go on within a segment, or at the start of one; see :class:`.MaskStep`.

        The states are how many frames there were before, those of the segments' layers,
        and those of the memories' layers.
        """
        number, *states = states
        blocks = 2 * len(self.segments)
        begins = (number > 0) & (number % self.segment_size == 0)
        of_memories = states[blocks:]
        before = [[torch.zeros_like(state) for state in states[:2]]]
        after: list[torch.Tensor] = []
        for i, memory in enumerate(self.memories):
            place = len(after)
            own = of_memories[place : place + 2 * len(memory.nets)]
            handed_on, new = memory.step(states[2 * i : 2 * i + 2], own)
            before.append(handed_on)
            after += [torch.where(begins, *pair) for pair in zip(new, own)]
        y, ends = x[:, None], []
        for i, (segments, first) in enumerate(zip(self.segments, before)):
            pairs = zip(first, states[2 * i : 2 * i + 2])
            y, *new = segments(y, [torch.where(begins, *pair) for pair in pairs])
            ends += new
        return self._outputs(y[:, 0]), [number + x.size(0), *ends, *after]

    def states(self) -> dict[str, State]:
        """States of a step by name."""
        hidden = self.segments[0].lstm.recurrent_weight.size(2)
        of_memories = [
            f"memory_{net}_{i}"
            for i, memory in enumerate(self.memories)
            for net in memory.nets
        ]
        segments = [f"segment_{i}" for i in range(len(self.segments))]
        layer = State("float32", (1, 1, hidden))
        names = [f"{name}_{s}" for name in (*segments, *of_memories) for s in "hc"]
        return {"frames_before": State("int64", ()), **dict.fromkeys(names, layer)}

    def _blocks(self, x: torch.Tensor) -> torch.Tensor:
        states: Sequence[torch.Tensor] = ()
        for i, segments in enumerate(self.segments):
            x, *states = segments(x, states)
            if i < len(self.memories):
                states = self.memories[i](states)
        return x

    def _segmented(self, x: torch.Tensor) -> torch.Tensor:
        """Segments (time, segments, dim)."""
        if self.overlap:
            return split(x, self.segment_size)
        # ESPnet adds a segment of zeros where the last one is full.
        size = self.segment_size
        number = x.size(0) // size + 1
        x = torch.nn.functional.pad(x, (0, 0, 0, number * size - x.size(0)))
        return x.unflatten(0, (number, size)).transpose(0, 1)

    def _merged(self, x: torch.Tensor, frames: int | torch.SymInt) -> torch.Tensor:
        if self.overlap:
            return merge(x, frames)
        return x.transpose(0, 1).flatten(0, 1)[:frames]


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator, and its step where ESPnet has one.

    That takes a causal one whose segments do not overlap. Without a memory a segment's
    states at its end go to its own start in the next block, which is not causal.
    """
    wrapped, skim = SkiMSeparator(separator), separator.skim
    whole = direct(wrapped, ends)
    handed_on = skim.mem_type is not None or skim.num_blocks == 1
    if skim.norm_type != "cLN" or skim.seg_overlap or not handed_on:
        return whole
    return streamed(whole, MaskStep(wrapped, wrapped.states(), skim.segment_size))


_SMALL = dict(layer=3, unit=6, segment_size=20)
_BOTH = dict(_SMALL, causal=False)

register(
    Arch(
        role="separator",
        name="skim",
        wrap=wrap,
        tiny={
            "causal": dict(_SMALL),
            "overlap": dict(_SMALL, seg_overlap=True, segment_size=7),
            "both_directions": dict(_BOTH, predict_noise=True, nonlinear="sigmoid"),
            "both_overlap": dict(_BOTH, seg_overlap=True, mem_type="h"),
            "output": dict(_SMALL, mem_type="h", ends="stft", num_spk=1),
            "cell": dict(_SMALL, mem_type="c", nonlinear="tanh"),
            "both_cell": dict(_BOTH, mem_type="c", segment_size=25),
            "handed_on": dict(_SMALL, mem_type="id", seg_overlap=True),
            "both_handed_on": dict(_BOTH, mem_type="id"),
            "handed_on_as_they_come": dict(_SMALL, mem_type="id", predict_noise=True),
            "one_block": dict(_SMALL, mem_type=None, layer=1, ends="stft"),
            "no_memory": dict(_SMALL, mem_type=None),
            "both_no_memory": dict(_BOTH, mem_type=None, seg_overlap=True, layer=1),
        },
    )
)
