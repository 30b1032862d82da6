"""``encoder: e_branchformer``."""

from __future__ import annotations

from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.registry import Arch, register

_TINY = dict(
    output_size=8,
    attention_heads=2,
    cgmlp_linear_units=12,
    cgmlp_conv_kernel=3,
    merge_conv_kernel=3,
    linear_units=12,
    num_blocks=1,
)
_ABSOLUTE = dict(_TINY, pos_enc_layer_type="abs_pos", attention_layer_type="selfattn")

register(
    Arch(
        role="encoder",
        name="e_branchformer",
        wrap=refuse_token_ids,
        tiny={
            "macaron": dict(
                _TINY,
                num_blocks=2,
                use_ffn=True,
                macaron_ffn=True,
                input_layer="conv1d1",
            ),
            "plain": dict(_TINY, input_layer="conv2d1"),
            "legacy": dict(_TINY, rel_pos_type="legacy", input_layer="conv2d2"),
            "absolute": dict(_ABSOLUTE, use_ffn=True, input_layer="conv1d2"),
            "fast_attention": dict(
                _ABSOLUTE, attention_layer_type="fast_selfattn", input_layer="linear"
            ),
            "conditioned": dict(
                _TINY,
                num_blocks=2,
                interctc_layer_idx=[1],
                interctc_use_conditioning=True,
                input_layer="conv1d3",
            ),
        },
        limits="input_layer embed is for token ids",
    )
)
