"""``normalize: utterance_mvn``: statistics of each utterance."""

from __future__ import annotations

from espnet_onnx_plugin.export.registry import Arch, as_it_is, register

register(
    Arch(
        role="normalize",
        name="utterance_mvn",
        wrap=as_it_is,
        tiny={
            "means": dict(),
            "means_and_variances": dict(norm_vars=True),
            "variances": dict(norm_means=False, norm_vars=True),
        },
    )
)
