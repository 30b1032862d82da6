"""``encoder: transformer_multispkr``: an output for each of several speakers."""

from __future__ import annotations

from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.registry import Arch, register

register(
    Arch(
        role="encoder",
        name="transformer_multispkr",
        wrap=refuse_token_ids,
        tiny={
            "three_speakers": dict(
                output_size=8,
                attention_heads=2,
                linear_units=12,
                num_blocks=1,
                num_blocks_sd=1,
                num_inf=3,
                positionwise_layer_type="conv1d",
                positionwise_conv_kernel_size=3,
            )
        },
        limits="input_layer embed is for token ids",
    )
)
