"""``separator: tfgridnetv3``: TF-GridNet of any number of frequencies."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, spectral
from espnet_onnx_plugin.export.layers.grid import GridBlock, grid, shared_heads
from espnet_onnx_plugin.export.registry import Arch, register

_SMALL = dict(
    ends="stft",
    n_layers=1,
    lstm_hidden_units=6,
    attn_n_head=2,
    attn_qk_output_channel=3,
    emb_dim=4,
)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """All of it, see :func:`grid`."""
    blocks = [GridBlock(b, shared_heads(b), True) for b in separator.blocks]
    return grid(separator, spectral(ends), blocks, scaled=False)


register(
    Arch(
        role="separator",
        name="tfgridnetv3",
        wrap=wrap,
        tiny={
            "linear": dict(_SMALL, emb_ks=2, emb_hs=2),
            "deconvolution": dict(_SMALL, n_layers=2, emb_ks=4, emb_hs=1),
            "uneven": dict(_SMALL, emb_ks=3, emb_hs=2, n_srcs=3),
        },
    )
)
