"""Padding of a batch: each utterance gets what it gets alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

_PADDED_LENGTH: list[Any] = []


@contextlib.contextmanager
def padded_to(length: Any) -> Iterator[None]:
    """Tell :func:`make_pad_mask` the padded length of the batch being traced.

    ESPnet's encoders ask for a mask by lengths alone; its width is then the longest
    length, a value that a graph has to compute, and equals the padded width.
    """
    _PADDED_LENGTH.append(length)
    try:
        yield
    finally:
        _PADDED_LENGTH.pop()


@contextlib.contextmanager
def padding_kept_out(
    encoder: torch.nn.Module,
    seen: Callable[[torch.Tensor], torch.Tensor] = lambda mask: mask,
) -> Iterator[None]:
    """Give each utterance of a batch what it gets alone, for the time of the block.

    Alone, a convolution sees zeros behind the last frame, and a subsampled frame exists
    if all frames that it is made of do. In a batch, ESPnet's convolutions see what the
    layers made of the padding, and subsampled frames may be made of it.

    Args:
        encoder: ESPnet's.
        seen: what its convolutions see alone, from the mask (B, 1, T) of a layer.
    """
    masks: list[torch.Tensor | None] = [None]

    def take_mask(layer, args):  # (x, mask (B, 1, T), ...)
        mask = args[1] if len(args) > 1 else None
        masks[0] = seen(mask) if mask is not None and mask.dim() == 3 else None

    def subsample_mask(embed, args, output):
        x, mask = output
        if mask is not None:
            # Frames that the caller puts before the first one are never padding.
            before = args[2].size(1) if len(args) > 2 and args[2] is not None else 0
            frames = (x[0] if isinstance(x, tuple) else x).size(1)
            lengths = before + subsampled(args[1].sum(dim=-1), embed.conv)
            mask = torch.arange(frames) < lengths[..., None]
        return x, mask

    with contextlib.ExitStack() as stack:

        def hook(handle):
            stack.callback(handle.remove)

        for name in ("encoders", "encoders_sd"):
            for layer in getattr(encoder, name, []):
                hook(layer.register_forward_pre_hook(take_mask))
                stack.enter_context(convolutions_see(layer, lambda: masks[0]))
        embed = getattr(encoder, "embed", None)
        if isinstance(getattr(embed, "conv", None), torch.nn.Sequential):
            hook(embed.register_forward_hook(subsample_mask))
        yield


@contextlib.contextmanager
def convolutions_see(
    layer: torch.nn.Module, mask: Callable[[], torch.Tensor | None]
) -> Iterator[None]:
    """Zero what convolutions over time get outside a mask, for the time of the block.

    Args:
        layer: what holds the convolutions.
        mask: gives the mask (B, 1, T) in force, true at what is seen; None: everything.
    """

    def clear(conv, args):  # (x (B, C, T),)
        if mask() is not None:
            return (args[0].masked_fill(~mask(), 0.0),)

    with contextlib.ExitStack() as stack:
        for module in layer.modules():
            if isinstance(module, torch.nn.Conv1d) and module.kernel_size[0] > 1:
                stack.callback(module.register_forward_pre_hook(clear).remove)
        yield


def subsampled(lengths: Any, conv: torch.nn.Sequential) -> Any:
    """How many frames are left of so many, by a subsampling without padding."""
    for layer in conv:
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d)):
            lengths = (lengths - layer.kernel_size[0]) // layer.stride[0] + 1
    return lengths


def make_pad_mask(
    lengths: torch.Tensor,
    xs: torch.Tensor | None = None,
    length_dim: int = -1,
    maxlen: Any | None = None,
) -> torch.Tensor:
    """True at padded positions, as ESPnet's function of that name.

    ESPnet's traceable form multiplies triangular matrices (O(T^2) memory); this is one
    comparison.

    Args:
        lengths: (B,) int64.
        xs: the padded tensor whose shape the mask gets, if given.
        length_dim: the axis of ``xs`` that holds the length.
        maxlen: length of the mask where ``xs`` is not given; default: what
            :func:`padded_to` says.

    Returns:
        Bool tensor, (B, maxlen) or the shape of ``xs``.
    """
    if xs is not None:
        length_dim = length_dim % xs.dim()
        maxlen = xs.size(length_dim)
    elif maxlen is None:
        maxlen = _PADDED_LENGTH[-1]
    mask = torch.arange(maxlen, device=lengths.device)[None, :] >= lengths[:, None]
    if xs is None:
        return mask
    shape = [1] * xs.dim()
    shape[0], shape[length_dim] = xs.size(0), maxlen
    return mask.view(shape).expand(xs.shape)
