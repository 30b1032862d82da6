"""``separator: uses2``: any number of channels, with windows of a Swin transformer."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, spectral
from espnet_onnx_plugin.export.layers.uses import Whole, segmental
from espnet_onnx_plugin.export.registry import Arch, register

_SMALL = dict(
    ends="stft",
    enc_channels=6,
    bottleneck_size=4,
    num_blocks=2,
    num_spatial_blocks=1,
    segment_size=24,
    memory_size=5,
    hidden_size=6,
    att_heads=2,
    ch_att_dim=6,
    input_resolution=[40, 24],
    window_size=[10, 8],
)
_SWIN = dict(_SMALL, tf_mode="swin", swin_block_depth=[2, 1])


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """All of it: in segments (``comp``), or whole (``swin``)."""
    if separator.tf_mode == "comp":
        return segmental(separator, ends, several=True)
    return EnhModules(
        {"separator": Whole(separator, spectral(ends))},
        ends,
        channels=None,
        averages=separator.ref_channel is None,
        modes=1,
    )


register(
    Arch(
        role="separator",
        name="uses2",
        wrap=wrap,
        tiny={
            "comp": dict(_SMALL, memory_types=2),
            "swin": dict(_SWIN, ref_channel=1, num_spk=1),
            "comp-attention": dict(_SMALL, ch_mode="att", ref_channel=1),
            "comp-concatenation": dict(_SMALL, ch_mode="tac", window_size=[40, 4]),
            "swin-modes": dict(
                _SWIN,
                num_spatial_blocks=2,
                ch_mode=["att", "tac"],
                window_size=[10, 24],
                qkv_bias=False,
                qk_scale=0.3,
            ),
        },
    )
)
