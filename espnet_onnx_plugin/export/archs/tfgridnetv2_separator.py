"""``separator: tfgridnetv2``: TF-GridNet, whose heads share layers."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.layers.grid import (
    GridBlock,
    grid,
    own_ends,
    shared_heads,
)
from espnet_onnx_plugin.export.registry import Arch, register

_SMALL = dict(
    ends="same",
    n_fft=64,
    stride=32,
    n_layers=1,
    lstm_hidden_units=6,
    attn_n_head=2,
    attn_approx_qk_dim=40,
    emb_dim=4,
)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """All of it, see :func:`grid`."""
    own = own_ends(separator, ends)
    blocks = [GridBlock(b, shared_heads(b), True) for b in separator.blocks]
    return grid(separator, own, blocks, scaled=True)


register(
    Arch(
        role="separator",
        name="tfgridnetv2",
        wrap=wrap,
        tiny={
            "linear": dict(_SMALL, emb_ks=2, emb_hs=2),
            "deconvolution": dict(_SMALL, n_layers=2, n_imics=2, emb_ks=4, emb_hs=1),
            "uneven": dict(_SMALL, emb_ks=3, emb_hs=2, n_srcs=3, window="hamming"),
            "one": dict(_SMALL, emb_ks=1, emb_hs=1, use_builtin_complex=True),
        },
    )
)
