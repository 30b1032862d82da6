"""``separator: tcn``: Conv-TasNet's temporal convolutions."""

from __future__ import annotations

from espnet_onnx_plugin.export.enh_module import direct
from espnet_onnx_plugin.export.registry import Arch, register

_SMALL = dict(layer=2, stack=2, bottleneck_dim=6, hidden_dim=10, kernel=3)

register(
    Arch(
        role="separator",
        name="tcn",
        wrap=direct,
        tiny={
            "global": dict(_SMALL),
            "spectrum": dict(_SMALL, ends="stft"),
            "causal": dict(_SMALL, causal=True, norm_type="cLN", nonlinear="sigmoid"),
            "mapping": dict(
                _SMALL, num_spk=1, norm_type="BN", nonlinear="linear", masking=False
            ),
            "noise": dict(
                _SMALL,
                predict_noise=True,
                nonlinear="tanh",
                pre_mask_nonlinear="linear",
            ),
        },
    )
)
