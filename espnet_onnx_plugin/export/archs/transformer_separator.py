"""``separator: transformer``."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.separation import AttentionMasks
from espnet_onnx_plugin.export.registry import Arch, register


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    return direct(AttentionMasks(separator, separator.transformer), ends)


_SMALL = dict(adim=8, aheads=2, layers=2, linear_units=12)

register(
    Arch(
        role="separator",
        name="transformer",
        wrap=wrap,
        tiny={
            "spectrum": dict(_SMALL, ends="stft"),
            "before": dict(
                _SMALL,
                normalize_before=True,
                use_scaled_pos_enc=False,
                predict_noise=True,
                nonlinear="sigmoid",
            ),
            "convolutions": dict(
                _SMALL,
                concat_after=True,
                positionwise_layer_type="conv1d",
                positionwise_conv_kernel_size=3,
                nonlinear="tanh",
            ),
            "one_convolution": dict(
                _SMALL,
                num_spk=1,
                positionwise_layer_type="conv1d-linear",
                positionwise_conv_kernel_size=3,
            ),
        },
    )
)
