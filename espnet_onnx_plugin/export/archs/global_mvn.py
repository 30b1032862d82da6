"""``normalize: global_mvn``: statistics of the training set."""

from __future__ import annotations

from espnet_onnx_plugin.export.registry import Arch, as_it_is, register

register(
    Arch(
        role="normalize",
        name="global_mvn",
        wrap=as_it_is,
        tiny={
            "means_and_variances": dict(),
            "means": dict(norm_vars=False),
            "variances": dict(norm_means=False),
        },
    )
)
