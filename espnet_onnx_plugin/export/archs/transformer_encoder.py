"""``encoder: transformer``."""

from __future__ import annotations

from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.registry import Arch, register

_TINY = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=1)

register(
    Arch(
        role="encoder",
        name="transformer",
        wrap=refuse_token_ids,
        tiny={
            "conv2d": _TINY,
            "conv2d2": dict(_TINY, input_layer="conv2d2", normalize_before=False),
            "conv2d6": dict(_TINY, input_layer="conv2d6", concat_after=True),
            "conv1d2": dict(_TINY, input_layer="conv1d2"),
            "linear": dict(_TINY, input_layer="linear"),
            "no_input_layer": dict(_TINY, input_layer=None),
            "conv1d": dict(
                _TINY,
                positionwise_layer_type="conv1d",
                positionwise_conv_kernel_size=3,
                input_layer="conv2d1",
            ),
            "conditioned": dict(
                _TINY,
                num_blocks=2,
                interctc_layer_idx=[1],
                interctc_use_conditioning=True,
                input_layer="conv2d8",
            ),
        },
        limits="input_layer embed is for token ids",
    )
)
