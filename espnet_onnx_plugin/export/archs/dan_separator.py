"""``separator: dan``: the deep attractor network."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle.enhancement import KMeans
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.layers.clustering import clustered
from espnet_onnx_plugin.export.registry import Arch, register


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """``espnet2.enh.separator.dan_separator.DANSeparator``."""
    method = KMeans(clusters=separator.num_spk, masks="attractors")
    return clustered(separator, ends, method)


_SMALL = dict(unit=6, emb_D=5, ends="stft")

register(
    Arch(
        role="separator",
        name="dan",
        wrap=wrap,
        tiny={
            "spectrum": dict(_SMALL),
            "waveform": dict(_SMALL, ends="conv", rnn_type="lstm", num_spk=3),
        },
    )
)
