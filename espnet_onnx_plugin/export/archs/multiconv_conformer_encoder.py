"""``encoder: multiconv_conformer``, several convolutions in a gated unit."""

from __future__ import annotations

from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.registry import Arch, register

_TINY = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    cgmlp_linear_units=24,
    multicgmlp_kernel_sizes="3,5",
    multicgmlp_merge_conv_kernel=3,
    rel_pos_type="latest",
)

register(
    Arch(
        role="encoder",
        name="multiconv_conformer",
        wrap=refuse_token_ids,
        tiny={
            "concat_fusion": dict(_TINY, macaron_style=True, layer_drop_rate=0.1),
            "weighted_sum": dict(
                _TINY,
                multicgmlp_type="weighted_sum",
                use_linear_after_conv=True,
                positionwise_layer_type="conv1d",
                interctc_layer_idx=[1],
                interctc_use_conditioning=True,
            ),
        },
        limits="input_layer embed is for token ids",
    )
)
