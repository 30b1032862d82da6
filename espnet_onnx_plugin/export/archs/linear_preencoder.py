"""``preencoder: linear``: a projection before the encoder."""

from __future__ import annotations

from espnet_onnx_plugin.export.registry import Arch, as_it_is, register

register(
    Arch(
        role="preencoder",
        name="linear",
        wrap=as_it_is,
        tiny={"projection": dict(input_size=20, output_size=10)},
    )
)
