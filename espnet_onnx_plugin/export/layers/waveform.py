"""Layers that networks on waveforms have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def shortest_waveform(extractor: torch.nn.Module, frames: int) -> int:
    """The fewest samples that a stack of convolutions makes so many frames of.

    Args:
        extractor: holds the convolutions, without padding, in their order.
        frames: how many, at least 1.
    """
    length = frames
    for module in reversed(list(extractor.modules())):
        if isinstance(module, torch.nn.Conv1d):
            length = (length - 1) * module.stride[0] + module.kernel_size[0]
    return length


class WaveformConvolutions(torch.nn.Module):
    """The convolutions that turn a waveform into frames, as a frontend.

    Their normalization may see a whole row, padding and all: the runtime gives a
    frontend single utterances.

    Args:
        extractor: maps (B, samples), (B,) to (B, frames, channels), (B,).
    """

    sampling_rate = 16000

    def __init__(self, extractor: torch.nn.Module):
        super().__init__()
        self.extractor = extractor

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        return shortest_waveform(self.extractor, frames)

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> (B, frames, channels), (B,)."""
        return self.extractor(speech, lengths)


def standardize(x: torch.Tensor, eps: float) -> torch.Tensor:
    """(B, samples) with mean 0 and variance 1 in each row, padding and all."""
    centred = x - x.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    return centred / (variance + eps).sqrt()


class PlainConvolutions(torch.nn.ModuleList):
    """The convolutions of a module that have weight normalization, without it.

    Weight normalization makes a weight of its direction and its length at every call,
    which a graph would do too, and which a quantizer would not recognise.
    """

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self._places: list[tuple[torch.nn.Module, str]] = []
        for parent in module.modules():
            for name, conv in parent.named_children():
                if isinstance(conv, torch.nn.Conv1d) and _is_normalized(conv):
                    self._places.append((parent, name))
                    self.append(_plain(conv))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put them where the normalized ones are, for the time of the block."""
        originals = [getattr(parent, name) for parent, name in self._places]
        try:
            for (parent, name), conv in zip(self._places, self):
                setattr(parent, name, conv)
            yield
        finally:
            for (parent, name), conv in zip(self._places, originals):
                setattr(parent, name, conv)


def _is_normalized(conv: torch.nn.Conv1d) -> bool:
    # Of torch.nn.utils.parametrizations, and of the older torch.nn.utils.weight_norm.
    return hasattr(conv, "parametrizations") or hasattr(conv, "weight_g")


def _plain(conv: torch.nn.Conv1d) -> torch.nn.Conv1d:
    for hook in conv._forward_pre_hooks.values():
        if hasattr(hook, "compute_weight"):
            weight = hook.compute_weight(conv)
            break
    else:
        weight = conv.weight
    plain = torch.nn.Conv1d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )
    plain.weight.data = weight.detach()
    if conv.bias is not None:
        plain.bias = conv.bias
    return plain
