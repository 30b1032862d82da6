"""Patches of ESPnet and torch, each in force for the time of a block.

Those of :func:`traceable` compute what ESPnet's own functions compute, for any length;
they can go when torch traces these. What one architecture alone needs stands in the
architecture's file, put there by :func:`replaced` too.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from onnxscript.rewriter import _matcher
from torch.onnx._internal.exporter import _registration

from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.replace import replaced


def trim_by_ctc_posterior(
    h: torch.Tensor,
    ctc_probs: torch.Tensor,
    masks: torch.Tensor,
    pos_emb: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Cut off trailing frames that are surely blank, as ESPnet's function of that name.

    ESPnet's takes the longest of the lengths that are left in a Python loop.

    Args:
        h: (B, T, dim).
        ctc_probs: (B, T, tokens).
        masks: (B, 1, T), true at valid frames.
        pos_emb: of every frame (1, T, dim), or of every distance (1, 2 * T - 1, dim).

    Returns:
        What is left of ``h``, ``masks`` and ``pos_emb``.
    """
    valid = masks.squeeze(1)
    best, token = ctc_probs.max(dim=2)
    speech = valid & ~((best > 0.95) & (token == 0))
    last = torch.where(speech, torch.arange(h.size(1)), -1).amax(dim=1)
    lengths = torch.minimum(last + 6, valid.sum(dim=1))
    longest = lengths.max().item()
    torch._check(longest >= 2)
    torch._check(longest <= h.size(1))
    if pos_emb is not None and pos_emb.size(1) == h.size(1):
        pos_emb = pos_emb.narrow(1, 0, longest)
    elif pos_emb is not None:
        pos_emb = pos_emb.narrow(1, h.size(1) - longest, 2 * longest - 1)
    masks = (torch.arange(longest) < lengths[:, None]).unsqueeze(1)
    return h.narrow(1, 0, longest), masks, pos_emb


def sinusoids(positions: torch.Tensor, d_model: int) -> torch.Tensor:
    """Sinusoids (1, len(positions), d_model) of "Attention is all you need", 3.5."""
    div_term = torch.exp(
        torch.arange(0, d_model, 2, dtype=torch.float32)
        * -(math.log(10000.0) / d_model)
    )
    angles = positions.to(torch.float32)[:, None] * div_term
    return torch.stack((torch.sin(angles), torch.cos(angles)), dim=-1).flatten(1)[None]


# The positional encodings below keep no table: ESPnet's grows itself when it meets a
# longer input, which a graph cannot, and a table of fixed size would limit the length.


def _absolute(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * self.xscale + sinusoids(torch.arange(x.size(1)), self.d_model)


def _scaled(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + self.alpha * sinusoids(torch.arange(x.size(1)), self.d_model)


def _relative(self: torch.nn.Module, x: torch.Tensor):
    length = x.size(1)
    positions = length - 1 - torch.arange(2 * length - 1)
    return x * self.xscale, sinusoids(positions, self.d_model)


def _relative_legacy(self: torch.nn.Module, x: torch.Tensor):
    # The legacy table runs backwards over its whole length and an input takes its
    # first rows: positions count down from the table's length, not from the input's.
    table = torch.sym_max(self.pe.size(1), x.size(1))
    positions = table - 1 - torch.arange(x.size(1))
    return x * self.xscale, sinusoids(positions, self.d_model)


def _numpy(self: torch.Tensor) -> np.ndarray:
    # ESPnet asks for a dtype's lowest number by way of numpy. A traced tensor has a
    # dtype but no values.
    return np.empty(0, str(self.dtype).replace("torch.", ""))


def _never_short(ins: torch.nn.Module, size: Any):
    # The runtime compares the length with the manifest's bound before it runs a graph.
    return False, -1


def _patch_table():
    embedding = import_nets("pytorch_backend.transformer.embedding")
    return [
        (embedding.PositionalEncoding, "forward", _absolute),
        (embedding.ScaledPositionalEncoding, "forward", _scaled),
        (embedding.StreamPositionalEncoding, "forward", _absolute),
        (embedding.RelPositionalEncoding, "forward", _relative),
        (torch.Tensor, "numpy", _numpy),
        (embedding.LegacyRelPositionalEncoding, "forward", _relative_legacy),
    ]


def _importers(name: str) -> Iterator[Any]:
    """Modules of ESPnet that hold a function under this name (``from x import f``)."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] in ("espnet", "espnet2") and module is not None:
            if name in vars(module):
                yield module


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Patch ESPnet so that its modules can be traced, for the time of the block."""
    functions = {
        "make_pad_mask": make_pad_mask,
        "check_short_utt": _never_short,
        "trim_by_ctc_posterior": trim_by_ctc_posterior,
    }
    with contextlib.ExitStack() as stack:
        for cls, attribute, replacement in _patch_table():
            stack.enter_context(replaced(cls, attribute, replacement))
        for name, replacement in functions.items():
            for module in _importers(name):
                stack.enter_context(replaced(module, name, replacement))
        yield


@contextlib.contextmanager
def small_masks() -> Iterator[None]:
    """Give ESPnet's modules masks that are one comparison, for the time of the block.

    ESPnet's function multiplies matrices of length by length: of a waveform of 5 s at
    8 kHz, which a diarization without a frontend hands to ``normalize``, 6 GB. This can
    go when it does not.
    """

    def mask(
        lengths: torch.Tensor,
        xs: torch.Tensor | None = None,
        length_dim: int = -1,
        maxlen: int | None = None,
    ) -> torch.Tensor:
        if xs is None and maxlen is None:
            maxlen = int(lengths.max())
        return make_pad_mask(lengths, xs, length_dim, maxlen)

    with contextlib.ExitStack() as stack:
        for module in _importers("make_pad_mask"):
            stack.enter_context(replaced(module, "make_pad_mask", mask))
        yield


@contextlib.contextmanager
def one_operator_table() -> Iterator[None]:
    """Let torch's exporter make the table of its operators once, not for every graph.

    It takes 0.7 s, as long as some of a model's five to seven graphs. This can go when
    torch keeps its table.
    """
    registry = _registration.ONNXRegistry
    with replaced(registry, "from_torchlib", staticmethod(_operators)):
        yield


#: Looked up where it is defined, not where it is replaced.
_operators = functools.cache(_registration.ONNXRegistry.from_torchlib)


@contextlib.contextmanager
def small_numbers_kept() -> Iterator[None]:
    """Keep additions of very small numbers in graphs, for the time of the block.

    onnxscript drops what is added where it is 0 up to 1e-8 (rewriter/_pattern_ir.py,
    ``abs_tol``), and with it ESPnet's guards against divisions by 0. This can go when
    it compares such numbers exactly.
    """

    def is_close(a: float, b: float, rel_tol: float, abs_tol: float) -> bool:
        return math.isclose(a, b, rel_tol=rel_tol)

    with replaced(_matcher, "math", SimpleNamespace(isclose=is_close)):
        yield


@contextlib.contextmanager
def first_inputs(module: torch.nn.Module | None) -> Iterator[list[torch.Tensor]]:
    """Collect the first input of each call of a module, for the time of the block.

    Args:
        module: whose calls; None: none.
    """
    seen: list[torch.Tensor] = []
    if module is None:
        yield seen
        return
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


@contextlib.contextmanager
def nothing_rectified() -> Iterator[None]:
    """Pass everything through torch's rectifiers.

    They hide some of what a change of the input does to the output, which is how
    :func:`~.layers.vocoder.context` finds what a frame depends on.
    """
    with replaced(torch.nn.ReLU, "forward", lambda _, x: x):
        yield
