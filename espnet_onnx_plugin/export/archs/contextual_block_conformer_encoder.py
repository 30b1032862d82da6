"""``encoder: contextual_block_conformer``, of whole utterances and of streams."""

from __future__ import annotations

from espnet_onnx_plugin.export.archs.contextual_block_transformer_encoder import (
    ContextualBlockEncoder,
)
from espnet_onnx_plugin.export.registry import Arch, register

register(
    Arch(
        role="encoder",
        name="contextual_block_conformer",
        wrap=ContextualBlockEncoder,
        tiny={
            "macaron": dict(
                output_size=8,
                attention_heads=2,
                linear_units=12,
                num_blocks=2,
                macaron_style=True,
                cnn_module_kernel=5,
                block_size=8,
                hop_size=3,
                look_ahead=2,
            )
        },
        limits="input_layer embed is for token ids; streams need an input layer",
    )
)
