"""``separator: tfgridnet``: TF-GridNet, whose attention has layers for each head."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.layers.grid import GridBlock, grid, heads_of, own_ends
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


def _block(block: torch.nn.Module) -> GridBlock:
    heads = {
        name: heads_of([block[f"attn_conv_{name}_{i}"] for i in range(block.n_head)])
        for name in ("Q", "K", "V")
    }
    heads["proj"] = heads_of([block["attn_concat_proj"]])
    return GridBlock(block, heads, surrounded=False)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """All of it, see :func:`grid`."""
    own = own_ends(separator, ends)
    blocks = [_block(block) for block in separator.blocks]
    # ESPnet needs a step of each LSTM, although it adds frames at the end.
    missing = blocks[0].kernel - blocks[0].hop
    return grid(separator, own, blocks, True, missing * own.analysis.hop_length)


register(
    Arch(
        role="separator",
        name="tfgridnet",
        wrap=wrap,
        tiny={
            "single": dict(_SMALL),
            "channels": dict(
                _SMALL,
                n_imics=3,
                n_srcs=1,
                ref_channel=1,
                emb_hs=2,
                activation="elu",
                window=None,
            ),
            "uneven": dict(
                _SMALL, n_layers=2, emb_ks=3, emb_hs=2, use_builtin_complex=True
            ),
        },
    )
)
