"""``separator: uses``: any number of channels, any rate, and a memory."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.layers.uses import segmental
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
)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """All of it, see :func:`segmental`."""
    return segmental(separator, ends, several=False)


register(
    Arch(
        role="separator",
        name="uses",
        wrap=wrap,
        tiny={
            "attention": dict(_SMALL),
            "concatenation": dict(
                _SMALL,
                ch_mode="tac",
                memory_types=2,
                ref_channel=1,
                norm_type="gLN",
                num_spk=1,
                rnn_type="gru",
            ),
            "spatial": dict(
                _SMALL,
                num_spatial_blocks=2,
                norm_type="BN",
                bidirectional=False,
                rnn_type="rnn",
                activation="elu",
            ),
            "group": dict(_SMALL, num_spatial_blocks=0, norm_type="GN"),
        },
    )
)
